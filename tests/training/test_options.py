"""From the options of a training to its configuration and folder, without a command line."""

from pathlib import Path

import pytest

from rotanext.errors import UserError
from rotanext.training.options import Place, TrainOptions, launched, what_to_train


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(alone=True, speaks=True)),
        ({"LOCAL_RANK": "3"}, Place(alone=True, speaks=True)),  # left over from something else
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "0"}, Place(alone=False, speaks=True)),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Place(alone=False, speaks=False)),
    ],
)
def test_which_processes_speak(environment: dict[str, str], place: Place) -> None:
    assert launched(environment) == place


def test_a_new_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, folder, begun = what_to_train(TrainOptions("demo", ["train.epochs=3"], data=["d", "e"], val=["v"], trackers=["wandb"]))
    assert (folder, begun) == (Path("runs/demo"), False)
    assert config.train.epochs == 3
    assert config.data.train == [str(tmp_path / "d"), str(tmp_path / "e")]
    assert config.data.val == [str(tmp_path / "v")]
    assert config.train.trackers == ["wandb"]


def test_going_on(tiny_run: Path, tmp_path: Path) -> None:
    config, folder, begun = what_to_train(TrainOptions("data.workers=3", ["train.keep=2"], resume=tiny_run))
    assert (folder, begun, config.data.workers, config.train.keep) == (tiny_run, True, 3, 2)
    fresh = what_to_train(TrainOptions("demo", run=tmp_path / "new", go_on=True))
    assert (fresh.folder, fresh.begun) == (tmp_path / "new", False)


@pytest.mark.parametrize(
    "options",
    [{"recipe": "demo"}, {"data": ["d"]}, {"val": ["v"]}, {"run": Path("r")}, {"go_on": True}],
    ids=lambda options: next(iter(options)),
)
def test_resume_stands_alone(options: dict, tiny_run: Path) -> None:
    with pytest.raises(UserError, match="--resume takes everything from the run's folder; give no recipe"):
        what_to_train(TrainOptions(resume=tiny_run, **options))
