"""States on disk: which are kept, damaged ones, and what cannot be resumed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rotanext.config.formats import FORMAT
from rotanext.errors import UserError
from rotanext.training.folder import state_files
from rotanext.training.state import (
    check_same_data,
    newest_state,
    random_state,
    remove_leftovers,
    save_state,
    seed_process,
    set_random_state,
)
from tiny import draw_dataset, tiny_config
from trainings import train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run, data: [path.write_bytes(path.read_bytes()[:99999]) for path in state_files(run)], r"2\.pt: found damage"),
        (lambda run, data: [path.write_bytes(b"") for path in state_files(run)], r"state-00000002\.pt: found damage"),
        (lambda run, data: [torch.save({"a": 1}, path) for path in state_files(run)], r"2\.pt: found damage.*class_names"),
        (lambda run, data: shutil.rmtree(run / "states"), r"no saved training to resume"),
        (lambda run, data: (data / "labelTxt/p0.txt").write_text("1 1 9 1 9 9 1 9 boat 0\n"), "classes plane, ship.*boat, plane"),
        (lambda run, data: (data / "images/p1.png").unlink(), r"a training on 4 images; expected 3"),
    ],
    ids=["cut", "empty", "other", "missing", "classes", "images"],
)
def test_what_cannot_be_resumed(change: Callable[[Path, Path], Any], message: str, tiny_run: Path, tmp_path: Path) -> None:
    run, data = shutil.copytree(tiny_run, tmp_path / "run"), draw_dataset(tmp_path / "data", 4)
    change(run, data)
    kept = (run / "last.safetensors").read_bytes()
    with pytest.raises(UserError, match=message):
        train(tiny_config(data, None, "train.epochs=3"), run, resume=True, strict=False)
    assert (run / "last.safetensors").read_bytes() == kept


def plain_state(step: int) -> dict:
    keys = ("model", "averaged", "optimizer", "random", "scaler", "class_names", "images", "total_batch", "rows")
    return dict.fromkeys(keys) | {"progress": {"step": step}, "model": torch.arange(1000)}


def test_the_last_states_are_kept(tmp_path: Path) -> None:
    for step in (1, 5, 20, 1000):
        save_state(tmp_path, step, plain_state(step), keep=2)
    assert [path.name for path in state_files(tmp_path)] == ["state-00001000.pt", "state-00000020.pt"]
    save_state(tmp_path, 30, plain_state(30), keep=2)  # a training that went back to 20 leaves no later states behind it
    assert [path.name for path in state_files(tmp_path)] == ["state-00000030.pt", "state-00000020.pt"]


@pytest.mark.parametrize("kind", ["cut", "empty", "one-bit", "other"])
def test_a_damaged_state_gives_way_to_the_one_before(kind: str, tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path, step, plain_state(step), keep=2)
    path = state_files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(1000).numpy().tobytes()) + 4000
    content[place] ^= 1
    changed = {"cut": content[: len(content) // 2], "empty": b"", "one-bit": content, "other": b"PK nonsense"}[kind]
    path.write_bytes(changed)
    said: list[str] = []
    assert newest_state(tmp_path, said.append)["progress"]["step"] == 1
    assert len(said) == 1
    assert str(path) in said[0]
    assert "going on from the one before" in said[0]
    save_state(tmp_path, 2, plain_state(2), keep=2)
    assert newest_state(tmp_path, pytest.fail)["progress"]["step"] == 2


def test_leftovers_of_killed_processes_go_and_nothing_else(tmp_path: Path) -> None:
    save_state(tmp_path, 1, plain_state(1), keep=1)
    (tmp_path / "notes.part").write_text("a user's own")
    for name in (".last.safetensors.1234.part", "states/.state-00000002.pt.1234.part"):
        (tmp_path / name).write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["notes.part", "state-00000001.pt", "states"]
    remove_leftovers(tmp_path / "nowhere")


def test_a_state_must_have_every_part(tmp_path: Path) -> None:
    state = plain_state(3)
    del state["optimizer"], state["random"]
    save_state(tmp_path, 3, state, keep=1)
    with pytest.raises(UserError, match=r"state-00000003\.pt: found damage \(it has no optimizer, random\)"):
        newest_state(tmp_path, pytest.fail)


def test_a_state_of_format_1_gets_todays_names(tmp_path: Path) -> None:
    weights = {"fpn.lateral.0.weight": torch.ones(1), "head.cls_tower.0.bias": torch.zeros(1)}
    state = plain_state(4) | {"model": weights, "averaged": None, "pictures": 7}
    del state["images"]
    save_state(tmp_path, 4, state, keep=1)
    found = newest_state(tmp_path, pytest.fail)
    assert found["model"].keys() == {"neck.lateral.0.weight", "head.cls_convs.0.bias"}
    assert (found["images"], found["averaged"], found["format"]) == (7, None, FORMAT)
    assert "pictures" not in found


@pytest.mark.parametrize(
    ("names", "images", "message"),
    [
        (("plane", "ship"), 4, None),
        (("ship", "plane"), 4, r"a training of the classes plane, ship.*ship, plane"),
        (("plane",), 4, r"a training of the classes plane, ship.*plane, as in the data now"),
        (("plane", "ship"), 5, r"a training on 4 images.*5, as in the data now"),
    ],
)
def test_the_data_must_be_the_same(names: tuple[str, ...], images: int, message: str | None, tmp_path: Path) -> None:
    state = {"class_names": ["plane", "ship"], "images": 4}
    if message is None:
        check_same_data(tmp_path, state, names, images)
        return
    with pytest.raises(UserError, match=message):
        check_same_data(tmp_path, state, names, images)


# Random numbers


def drawn(rank: int, step: int = 0, seed: int = 5) -> list[float]:
    torch.manual_seed(0)
    seed_process(seed, rank, step)
    return torch.rand(3).tolist()


def test_every_process_draws_its_own_numbers() -> None:
    plain = torch.manual_seed(0) and torch.rand(3).tolist()
    assert drawn(0) == plain  # the first one's go on
    assert drawn(1) == drawn(1)
    found = [drawn(rank, step, seed) for rank in (1, 2) for step in (0, 1) for seed in (5, 6)]
    assert len({tuple(values) for values in [*found, plain]}) == 9


def test_random_numbers_go_on() -> None:
    torch.rand(5)
    state = random_state(torch.device("cpu"))
    expected = torch.rand(3)
    torch.rand(11)
    set_random_state(state | {"another": torch.zeros(1)}, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    assert state.keys() == {"cpu"}
