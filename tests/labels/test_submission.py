"""The checker of submissions to DOTA's test server."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from label_files import one_image, write_image
from rotanext.data.dota import CLASS_LISTS
from rotanext.errors import UserError
from rotanext.labels.submission import Submission, check_submission


def make_zip(path: Path, change: dict[str, str | None] | None = None) -> Path:
    files: dict[str, str | None] = {
        f"Task1_{name}.txt": "P0006 0.9 10 10 40 10 40 30 10 30\n" for name in CLASS_LISTS["dota1.0"]
    } | (change or {})
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            if text is not None:
                archive.writestr(name, text)
    return path


GOOD = "P0006 0.9 10 10 40 10 40 30 10 30\n"


SUBMISSIONS: tuple[tuple[dict[str, str | None], str], ...] = (
    ({"Task1_plane.txt": None}, "Task1_plane.txt is missing"),
    ({"Task1_plain.txt": GOOD}, "Task1_plain.txt: no class of dota1.0"),
    ({"readme.md": "x"}, "readme.md: expected only files named Task1_<class>.txt"),
    ({"results/Task1_plane.txt": GOOD}, "in a folder"),
    ({"Task1_plane.txt": "P0006 0.9 10 10\n"}, "Task1_plane.txt:1: found 4 fields"),
    ({"Task1_plane.txt": GOOD + GOOD}, "Task1_plane.txt:2: the same line again"),
    ({"Task1_plane.txt": GOOD.replace("0.9", "1.9")}, "a score outside 0 to 1 (1.9)"),
    ({"Task1_plane.txt": GOOD.replace("0.9", "nan")}, "a number that is not finite"),
    ({"Task1_plane.txt": GOOD.replace("40", "x")}, "found what is no number"),
    ({"Task1_plane.txt": GOOD.replace("40", "1e7")}, "a coordinate more than"),
    ({"Task1_plane.txt": GOOD.replace("40", "10")}, "corners that enclose no area"),
    ({"Task1_plane.txt": GOOD.replace("P0006", "P0006__1024__0___0")}, "a tile, not a whole image"),
    ({"Task1_plane.txt": GOOD.replace("P0006", "P9999")}, "no such image (P9999)"),
    ({f"Task1_{name}.txt": "" for name in CLASS_LISTS["dota1.0"]}, "no detection in any file"),
)  # fmt: skip


@pytest.mark.parametrize(("change", "message"), SUBMISSIONS)
def test_submissions(change: dict[str, str | None], message: str, tmp_path: Path, cli: Callable) -> None:
    one_image(tmp_path / "test")
    (tmp_path / "test/images/a.png").rename(tmp_path / "test/images/P0006.png")
    options = ("--images", tmp_path / "test/images")
    assert cli("labels", "check-submission", make_zip(tmp_path / "good.zip"), *options).code == 0
    done = cli("labels", "check-submission", make_zip(tmp_path / "bad.zip", change), *options, "--version", "dota1.0")
    assert done.code == 1
    assert message in done.out


def test_what_cannot_be_read_is_not_missing_as_well(tmp_path: Path, cli: Callable) -> None:
    path = make_zip(tmp_path / "a.zip", {"Task1_plane.txt": None, "results/Task1_plane.txt": GOOD})
    with zipfile.ZipFile(path, "a") as archive:
        locked = archive.infolist()[1]
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 8] |= 1  # the flag "encrypted" of the second entry
    path.write_bytes(data)
    found = json.loads(cli("labels", "check-submission", path, "--version", "dota1.0", "--json").out)["problems"]
    assert len(found) == 2, found
    assert f"{locked.filename}: encrypted" in found[0]
    other = make_zip(tmp_path / "b.zip", {"Task1_plane.txt": None, "results/model_plane.txt": GOOD})
    said = cli("labels", "check-submission", other, "--version", "dota1.0").out
    assert "Task1_plane.txt is missing" in said
    assert "results/Task1_plane.txt: in a folder" in found[1]


def test_submissions_that_are_none(tmp_path: Path, cli: Callable) -> None:
    (tmp_path / "a.zip").write_text("no zip")
    assert cli("labels", "check-submission", tmp_path / "a.zip").code == 2
    assert cli("labels", "check-submission", tmp_path / "none.zip").code == 2
    assert cli("labels", "check-submission", make_zip(tmp_path / "b.zip"), "--images", tmp_path / "none").code == 2
    assert cli("labels", "check-submission", make_zip(tmp_path / "b.zip"), "--version", "dota3").code == 2
    damaged = bytearray((tmp_path / "b.zip").read_bytes())
    damaged[40] ^= 255
    (tmp_path / "c.zip").write_bytes(damaged)
    assert cli("labels", "check-submission", tmp_path / "c.zip").code == 2
    told = json.loads(cli("labels", "check-submission", tmp_path / "b.zip", "--json").out)
    assert (told["problems"], sum(told["detections"].values())) == ([], 15)


def write_lines(path: Path, **lines: str) -> Path:
    return make_zip(path, {f"Task1_{name}.txt": text for name, text in lines.items()})


@pytest.mark.parametrize("version", CLASS_LISTS)
def test_the_version_whose_classes_fit_best(version: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in CLASS_LISTS[version]:
            archive.writestr(f"Task1_{name}.txt", GOOD)
    found = check_submission(tmp_path / "a.zip")
    assert found.problems == []
    assert found.notices == [f"taken for {version}, whose classes fit best"]
    assert found.counts == dict.fromkeys(CLASS_LISTS[version], 1)
    assert found.images == 1
    other = next(name for name in CLASS_LISTS if name != version)
    assert check_submission(tmp_path / "a.zip", version=other).problems


def test_images_without_detections_and_empty_files_are_no_problem(tmp_path: Path) -> None:
    for name in ("P0006", "P0007"):
        write_image(tmp_path / f"images/{name}.png")
    found = check_submission(write_lines(tmp_path / "a.zip", plane=""), tmp_path / "images", "dota1.0")
    assert found.problems == []
    assert found.notices == ["Task1_plane.txt is empty: no plane found", "1 image without any detection: P0007 ..."]


def test_of_one_fault_in_many_lines_the_first_are_listed(tmp_path: Path) -> None:
    found = check_submission(write_lines(tmp_path / "a.zip", plane="P0006 0.9\n" * 25), version="dota1.0")
    assert len(found.problems) == 21
    assert found.problems[-1].endswith(": 5 more")
    assert found.counts["plane"] == 25


def test_tiles_are_told_without_the_images_too(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.zip", plane=GOOD.replace("P0006", "P0006__1024__0___0"))
    (problem,) = check_submission(path, version="dota1.0").problems
    assert problem.startswith("Task1_plane.txt: images named like tiles")


def test_a_file_twice_and_a_zip_of_too_many(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("Task1_plane.txt", GOOD)
    assert check_submission(path, version="dota1.0").problems == ["Task1_plane.txt: twice in the zip"]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for index in range(1001):
            archive.writestr(f"{index}.txt", "")
    with pytest.raises(UserError, match="more than 1 GB or 1000 files"):
        check_submission(tmp_path / "b.zip")


def test_text_and_json_say_the_same() -> None:
    found = Submission({"plane": 2, "ship": 1}, ["bad"], ["odd"], 2)
    assert found.text() == "3 detections of 2 classes in 2 images: 1 problem\n  problem: bad\n  notice: odd"
    assert found.to_json() == {"detections": {"plane": 2, "ship": 1}, "images": 2, "problems": ["bad"], "notices": ["odd"]}
