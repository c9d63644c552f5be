"""The folder of a run: what its files are called, whether it holds a training, and what may change when that goes on."""

import json
from pathlib import Path

import pytest

from rotanext.config import saved_values
from rotanext.errors import UserError
from rotanext.training.folder import check_data_is_there, holds_training, read_run_config, reconfigured, state_files
from tiny import tiny_config


def test_states_are_listed_newest_first(tmp_path: Path) -> None:
    assert state_files(tmp_path) == []
    (tmp_path / "states").mkdir()
    for name in ("state-00000002.pt", "state-00000010.pt", ".state-00000011.pt.part", "notes.txt"):
        (tmp_path / "states" / name).touch()
    assert [path.name for path in state_files(tmp_path)] == ["state-00000010.pt", "state-00000002.pt"]


@pytest.mark.parametrize(("file", "held"), [
    ("states/state-00000001.pt", True), ("last.safetensors", True), ("best.safetensors", True), ("config.json", False),
    ("metrics.jsonl", False),
])  # fmt: skip
def test_what_counts_as_a_training(file: str, held: bool, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert holds_training(tmp_path) == held


@pytest.mark.parametrize(("text", "message"), [
    (None, "is not the folder of a training run"), ("{", "cannot be read"), ("[1]", "config.json"), ('{"format": 9}', "format 9"),
])  # fmt: skip
def test_configurations_that_are_none(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_run_config(tmp_path)


def test_a_saved_configuration_is_read_back(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "data")
    (tmp_path / "config.json").write_text(json.dumps(saved_values(config)))
    assert read_run_config(tmp_path) == config


def test_only_what_changes_no_result_may_change(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "data")
    assert reconfigured(config, ["train.keep=7"]).train.keep == 7
    for override in ("train.lr=0.5", "head.anchors=v1", "neck.channels=16"):
        with pytest.raises(UserError, match=override.partition("=")[0]):
            reconfigured(config, [override])


@pytest.mark.parametrize("key", ["train", "val"])
def test_data_that_has_gone_is_named_with_what_to_do(key: str, tmp_path: Path) -> None:
    data = tiny_config(tmp_path / "train", tmp_path / "val").data
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    check_data_is_there(tmp_path / "run", data)
    (tmp_path / key).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError) as error:
        check_data_is_there(tmp_path / "run", data)
    found = f"{tmp_path / key}: found that the folder is gone; expected the data that this training began with. "
    advice = f"Bring it back, or, if it has moved, write its new place under data.{key} in {tmp_path / 'run/config.json'}."
    assert str(error.value) == found + advice
