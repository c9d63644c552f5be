"""The Task1 files of DOTA's test server: written, read back, zipped."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rotanext.data.task1 import check_task1_target, read_task1, write_task1, zip_task1
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError

SQUARE = "10 10 50 10 50 40 10 40"


def detections(count: int, names: tuple[str, ...]) -> Detections:
    boxes = torch.rand(count, 5) * torch.tensor([900.0, 900, 60, 20, 1]) + torch.tensor([50.0, 50, 30, 5, -0.5])
    scores = torch.rand(count).sort(descending=True).values
    return Detections(boxes, scores, torch.randint(0, len(names), (count,)), names)


def test_task1_files_read_back(tmp_path: Path) -> None:
    names = ("plane", "ship", "harbor")
    found = {"P2": detections(20, names), "P1 with a space": detections(0, names), "a b": detections(5, names[:2])}
    paths = write_task1(tmp_path, found, names)
    assert [path.name for path in paths] == ["Task1_plane.txt", "Task1_ship.txt", "Task1_harbor.txt"]
    lines = read_task1(tmp_path, Problems(strict=True))
    assert sorted(lines) == sorted(names)
    for label, name in enumerate(names):
        for stem, item in found.items():
            mine = [line for line in lines[name] if line.stem == stem]
            chosen = item.labels == label
            assert [line.score for line in mine] == item.scores[chosen].tolist()  # to the last bit
            corners = np.array([line.corners for line in mine]).reshape(-1, 4, 2)
            assert np.abs(corners - item.corners[chosen].numpy()).max(initial=0) <= 1e-4


def test_task1_files_of_an_empty_result(tmp_path: Path) -> None:
    write_task1(tmp_path / "new", {}, ("plane",))
    assert read_task1(tmp_path / "new", Problems(strict=True)) == {"plane": []}


@pytest.mark.parametrize("names", [("ship",), ("a/b", "plane")])
def test_task1_folder_that_would_mislead(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_task1(tmp_path, {}, ("plane",))
    with pytest.raises(UserError):
        write_task1(tmp_path, {}, names)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"P1 {SQUARE}", "9 fields"),
        (f"P1 high {SQUARE}", "found 'high'"),
        (f"P1 nan {SQUARE}", "finite"),
        (f"P1 0.5 {SQUARE[:-2]}inf", "finite"),
        ("P1", "1 fields"),
    ],
)
def test_broken_task1_lines(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "Task1_plane.txt").write_text(f"P1 0.5 {SQUARE}\n{line}\n\n")
    problems = Problems()
    assert len(read_task1(tmp_path, problems)["plane"]) == 1
    assert problems.first[0].startswith(f"{tmp_path / 'Task1_plane.txt'}:2: ")
    with pytest.raises(UserError, match=message):
        read_task1(tmp_path, Problems(strict=True))


def test_task1_folder_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_task1(tmp_path / "missing", Problems())
    with pytest.raises(UserError, match="no Task1_"):
        read_task1(tmp_path, Problems())
    with pytest.raises(UserError, match="no Task1_"):
        zip_task1(tmp_path)


def test_the_zip_holds_the_files_and_does_not_change(tmp_path: Path) -> None:
    write_task1(tmp_path, {"P1": detections(5, ("a", "b"))}, ("a", "b"))
    path = zip_task1(tmp_path)
    first = path.read_bytes()
    (tmp_path / "Task1_a.txt").touch()
    assert zip_task1(tmp_path).read_bytes() == first
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["Task1_a.txt", "Task1_b.txt"]
        assert archive.read("Task1_b.txt") == (tmp_path / "Task1_b.txt").read_bytes()


@pytest.mark.parametrize("names", [("ship",), ("a/b", "plane"), ("a\\b", "plane")], ids=str)
def test_a_target_that_would_mislead_is_known_before_the_work(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "Task1_plane.txt").touch()
    check_task1_target(tmp_path, ("plane", "ship"))
    check_task1_target(tmp_path / "not there yet", ("plane",))
    with pytest.raises(UserError, match=r"Rename it|Choose an empty folder"):
        check_task1_target(tmp_path, names)
