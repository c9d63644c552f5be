"""Starting a training, or going on with one: its files, its folder, its processes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rotanext.training.loop
import rotanext.training.train
from rotanext.errors import Problems, UserError
from rotanext.load import load_detector
from rotanext.system.progress import Display
from rotanext.training.folder import read_run_config, state_files
from rotanext.training.loop import Trainer
from rotanext.training.runlog import read_rows
from rotanext.training.train import start_training
from tiny import draw_dataset, tiny_config
from trainings import QUIET, stopping_after, train


def test_a_run_leaves_its_files(tiny_run: Path) -> None:
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("tensorboard/events")}
    assert events
    assert names - events == {
        "config.json", "metrics.jsonl", "states/state-00000002.pt",
        "states/state-00000004.pt", "last.safetensors", "best.safetensors", "curves.png", "report.html",
        "evaluation/metrics.json", "evaluation/precision_recall.png", "evaluation/confusion.png",
    }  # fmt: skip
    rows = read_rows(tiny_run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 4, 4]
    assert {"loss", "loss_cls", "loss_box", "lr", "grad_norm", "positives"} <= rows[0].keys()
    assert {"map50", "map75", "map50_95"} <= rows[1].keys()
    assert read_run_config(tiny_run).train.epochs == 2
    assert load_detector(tiny_run / "best.safetensors", "cpu").class_names == ("plane", "ship")
    assert not list(tiny_run.rglob("*.part"))


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 3}'])
def test_a_damaged_config_of_a_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        read_run_config(tmp_path)


def test_a_run_folder_in_use_is_refused(tiny_run: Path, tiny_dataset: Path) -> None:
    before = [path.read_bytes() for path in state_files(tiny_run)]
    with pytest.raises(UserError, match=f"already holds a training; go on with --resume {tiny_run}"):
        train(tiny_config(tiny_dataset / "train"), tiny_run)
    assert [path.read_bytes() for path in state_files(tiny_run)] == before


@pytest.mark.parametrize(("processes", "batch"), [(1, 12), (3, 4), (4, 3), (12, 1)])
def test_the_total_batch_stays_whatever_the_number_of_processes(processes: int, batch: int) -> None:
    config = tiny_config(Path("data"), None, "train.batch_size=6")
    fake: Any = SimpleNamespace(count=processes, fail=lambda message: (_ for _ in ()).throw(UserError(message)))
    changed = rotanext.training.train._with_same_total(config, {"total_batch": 12}, fake, Display(QUIET))
    assert changed.train.batch_size == batch
    two: Any = SimpleNamespace(count=2, fail=fake.fail)
    with pytest.raises(UserError, match=r"13 images in all.*go on with as many of these processes: 1, 13") as error:
        rotanext.training.train._with_same_total(config, {"total_batch": 13}, two, Display(QUIET))
    assert "2 processes cannot share" in str(error.value)


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({"WORLD_SIZE": "2"}, "cuda:1", "cannot be used|each of several processes takes a device of its own"),
        ({"WORLD_SIZE": "2"}, "mps", "cannot be used|several processes cannot train on mps"),
    ],
)
def test_devices_of_several_processes(
    environment: dict[str, str], device: str, message: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=message):
        start_training(tiny_config(tiny_dataset / "train"), tmp_path, device, Problems(), QUIET)


def test_a_training_whose_data_has_moved_goes_on_from_there(tmp_path: Path) -> None:
    """After what the message says has been done."""
    run, old, new = tmp_path / "run", draw_dataset(tmp_path / "old", 4), tmp_path / "new"
    with stopping_after(1), pytest.raises(KeyboardInterrupt):
        train(tiny_config(old), run)
    old.rename(new)
    with pytest.raises(UserError, match=f"{old}: found that the folder is gone.*data.train in {run / 'config.json'}"):
        train(read_run_config(run), run, resume=True)
    (run / "config.json").write_text((run / "config.json").read_text().replace(str(old), str(new)))
    train(read_run_config(run), run, resume=True)
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [1, 2]


def test_a_training_of_which_no_step_was_finite_fails(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, bad = Trainer._losses, {0, 1, 2, 3}

    def losses(self: Trainer, batch: Any) -> Any:
        terms, positives = plain(self, batch)
        return terms | {"cls": terms["cls"] * (float("nan") if self.progress.step in bad else 1.0)}, positives

    monkeypatch.setattr(Trainer, "_losses", losses)
    config = tiny_config(tiny_dataset / "train", tiny_dataset / "val", "train.epochs=2")
    for resume in (False, True):
        with pytest.raises(
            UserError, match=r"no step was taken: in none of 4 steps were loss and gradient finite.*lower train\.lr"
        ):
            train(config, tmp_path / "run", resume=resume)
    bad.remove(2)
    train(config, tmp_path / "other")
