"""`rotanext labels`: options of its commands, and what exit codes say. What they do is tested in tests/labels."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rotanext.labels import convert
from tiny import draw_dataset


def test_conversion_there_and_what_it_says(cli: Callable, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 2)
    command = ("labels", "convert", root, tmp_path / "yolo", "--from", "dota", "--to", "yolo-obb")
    done = cli(*command)
    assert (done.code, done.out) == (0, "")
    assert f": {tmp_path / 'yolo'} (yolo-obb)\n" in done.err
    again = cli(*command)
    assert again.code == 2
    assert cli(*command, "--overwrite", "--quiet") == (0, "", "")


def test_what_a_conversion_skips_is_code_1_and_with_strict_code_2(cli: Callable, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 2)
    (root / "labelTxt/p0.txt").write_text("1 2 3\n")
    command = ("labels", "convert", root, tmp_path / "a", "--from", "dota", "--to", "dota")
    done = cli(*command)
    assert done.code == 1
    assert "p0.txt:1: found 3 fields" in done.err
    strict = cli(*command[:3], tmp_path / "b", *command[4:], "--strict")
    assert strict.code == 2
    assert strict.err.startswith("error: ")


@pytest.mark.parametrize(
    ("options", "placing"),
    [((), "link"), (("--copy",), "copy"), (("--place-images", "none"), "none")],
    ids=["link", "copy", "none"],
)
def test_where_images_go(
    options: tuple[str, ...], placing: str, cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    real = convert.convert_labels
    monkeypatch.setattr(convert, "convert_labels", lambda *given, **how: asked.append(how) or real(*given, **how))
    root = draw_dataset(tmp_path / "data", 1)
    done = cli("labels", "convert", root, tmp_path / "out", "--from", "dota", "--to", "dota", *options)
    assert done.code == 0, done.err
    assert (asked[0]["placing"], asked[0]["overwrite"], asked[0]["images"]) == (placing, False, None)


@pytest.mark.parametrize("missing", ["--from", "--to"])
def test_both_formats_are_needed(missing: str, cli: Callable) -> None:
    given = {"--from": "dota", "--to": "coco"}
    del given[missing]
    done = cli("labels", "convert", "a", "b", *next(iter(given.items())))
    assert done.code == 2
    assert missing in done.err


def test_checking_as_text_json_and_files(cli: Callable, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 2)
    assert cli("labels", "check", root, "-q").code == 0
    (root / "labelTxt/p0.txt").write_text("1 2 3\n")
    done = cli("labels", "check", root)
    assert done.code == 1
    assert "p0.txt" in done.out
    done = cli("labels", "check", root, "--json", "--no-pixels", "--out", tmp_path / "report")
    assert done.code == 1
    assert json.loads(done.out)["problems"]
    assert f"wrote {tmp_path / 'report'}" in done.err
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {"report.html", "report.json"}


def test_submissions(cli: Callable, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("Task1_plane.txt", "P0006 0.9 10 10\n")
    done = cli("labels", "check-submission", tmp_path / "a.zip", "--version", "dota1.0")
    assert done.code == 1
    assert "Task1_plane.txt:1: found 4 fields" in done.out
    assert json.loads(cli("labels", "check-submission", tmp_path / "a.zip", "--version", "dota1.0", "--json").out)["problems"]
    assert cli("labels", "check-submission", tmp_path / "none.zip").code == 2


def test_without_a_command_there_is_help(cli: Callable) -> None:
    done = cli("labels")
    assert "check-submission" in done.out + done.err
