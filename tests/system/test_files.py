"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rotanext.errors import UserError
from rotanext.system.files import part_beside, remove_parts, write_atomically, write_bytes
from rotanext.training.runlog import read_rows


def write_new(part: Path) -> None:
    part.write_text("new")


@pytest.mark.parametrize("before", [None, "old"])
def test_written_in_place(before: str | None, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    if before is not None:
        path.parent.mkdir(parents=True)
        path.write_text(before)
    write_atomically(path, write_new)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path], "nothing else is left behind"


def test_the_old_file_is_replaced_not_overwritten(tmp_path: Path) -> None:
    """A reader that has the old file open, or a crash half-way, must never see a mixture."""
    path, reader = tmp_path / "file.txt", tmp_path / "reader"
    path.write_text("old")
    reader.hardlink_to(path)
    write_atomically(path, write_new)
    assert (path.read_text(), reader.read_text()) == ("new", "old")


def full_disk(part: Path) -> None:
    part.write_text("half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_as_torch_says_it(part: Path) -> None:
    part.write_text("half of it")
    raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


def nothing_written(_: Path) -> None:
    pass


@pytest.mark.parametrize("write", [full_disk, full_disk_as_torch_says_it, nothing_written], ids=lambda f: f.__name__)
def test_a_failure_leaves_the_previous_file(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    path.write_text("old")
    with pytest.raises(UserError) as error:
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "no half file is left behind"
    assert str(path) in str(error.value)
    assert "untouched" in str(error.value)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("durable", [False, True])
def test_only_what_is_to_be_durable_waits_for_the_disk(durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(os, "fsync", waited.append)
    write_bytes(tmp_path / "deep" / "a.txt", b"new", durable)
    assert (tmp_path / "deep" / "a.txt").read_bytes() == b"new"
    assert bool(waited) == durable


def test_the_advice_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"untouched\. Make room or choose another folder\.$"):
        write_atomically(tmp_path / "a.txt", full_disk)
    with pytest.raises(UserError, match=r"untouched\. Ask the owner\.$"):
        write_atomically(tmp_path / "a.txt", full_disk, advice="Ask the owner.")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("whole")
    part_beside(tmp_path / "a.txt").write_text("half of it")
    remove_parts(tmp_path)
    remove_parts(tmp_path / "none")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def interrupted(part: Path) -> None:
    part.write_text("half of it")
    raise KeyboardInterrupt


def test_an_interruption_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/inside", "x" * 300, "folder"], ids=["under-a-file", "long-name", "a-folder"])
def test_impossible_places_are_a_users_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        write_atomically(tmp_path / name, write_new)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_damaged_log(tmp_path: Path) -> None:
    """Lines that are no rows are passed over, whatever they are."""
    bad = [
        b"\xff\xfe",
        b'{"step": "2"}',
        b'{"step": null}',
        b'{"step": 2, "loss": "x"}',
        b'{"step": 2, "loss": NaN}',
        b"[" * 100_000,
    ]
    bad += [b'{"step": ' + b"9" * digits + b"}" for digits in (400, 5000)]
    bad += [b'{"loss": 1}', b"[]", b'{"step": 1']
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + b"\n".join(bad) + b'\n{"step": 3, "loss": null}\n')
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 3, "loss": None}]
