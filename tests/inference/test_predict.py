"""`rotanext predict`: files in, files out, bad images among good ones."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rotanext.data.task1 import read_task1
from rotanext.errors import Problems
from rotanext.images.reading import read_image

LOW = ("--score", "0.0125", "--draw", "0.0125", "--device", "cpu")


def stems(out: Path) -> list[str]:
    return [entry["name"] for entry in json.loads((out / "detections.json").read_text())["images"]]


@pytest.fixture
def scenes(tiny_dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_dataset / "train/images", tmp_path / "scenes [1]")


def test_a_folder(cli: Callable, scenes: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "long way down to the results of this prediction, longer than any terminal" / "out"
    done = cli("predict", scenes, "-w", tiny_weights, "--out", out, "--score", "0.001", "--draw", "0.001", "--device", "cpu")
    assert done.code == 0
    assert f"; results are in {out}\n" in done.err  # not broken at the eightieth column
    content = json.loads((out / "detections.json").read_text())
    assert content["class_names"] == ["plane", "ship"]
    assert content["box_convention"].startswith("le90")
    assert stems(out) == ["p0", "p1", "p2", "p3"]
    records = content["images"][0]["detections"]
    assert records
    assert {"class", "score", "box", "corners"} <= records[0].keys()
    lines = read_task1(out / "Task1", Problems(strict=True))
    assert sorted(lines) == ["plane", "ship"]
    total = sum(len(entry["detections"]) for entry in content["images"])
    assert sum(map(len, lines.values())) == total > 0
    assert f"{total} objects" in done.err
    best = max((line for line in lines[records[0]["class"]] if line.stem == "p0"), key=lambda line: line.score)
    assert best.score == records[0]["score"]
    np.testing.assert_allclose(np.reshape(best.corners, (4, 2)), records[0]["corners"], atol=1e-3)
    with zipfile.ZipFile(out / "Task1" / "Task1.zip") as archive:
        assert sorted(archive.namelist()) == ["Task1_plane.txt", "Task1_ship.txt"]
        assert archive.read("Task1_ship.txt") == (out / "Task1/Task1_ship.txt").read_bytes()
    drawn = read_image(out / "images/p0.png")
    assert (drawn[:64, :64] != read_image(scenes / "p0.png")).any()


@pytest.mark.parametrize(
    ("source", "expected"), [("{}/p1.png", ["p1"]), ("{}/scenes*/p[02].png", ["p0", "p2"])], ids=["file", "glob"]
)
def test_a_file_and_a_glob(
    source: str, expected: list[str], cli: Callable, scenes: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    folder = scenes if "*" not in source else tmp_path
    done = cli("predict", source.format(folder), "-w", tiny_weights, "--out", tmp_path / "out", "--no-images", *LOW)
    assert done.code == 0, done.err
    assert stems(tmp_path / "out") == expected
    assert not (tmp_path / "out/images").exists()


def test_bad_images_among_good_ones(cli: Callable, scenes: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (scenes / "cut.png").write_bytes((scenes / "p0.png").read_bytes()[:500])
    (scenes / "empty.jpg").touch()
    (scenes / "text.tif").write_text("no image")
    shutil.copy(scenes / "p1.png", scenes / "p1.PNG.bmp")
    cv2.imwrite(str(scenes / "p2.bmp"), np.zeros((8, 8, 3), np.uint8))  # a second p2
    done = cli("predict", scenes, "-w", tiny_weights, "--out", tmp_path / "out", *LOW)
    assert done.code == 1
    assert sorted(stems(tmp_path / "out")) == ["p0", "p1", "p1.PNG", "p2", "p3"]
    assert "Skipped 4 invalid items (--strict refuses instead):" in done.err
    for name in ("cut.png", "empty.jpg", "text.tif", "p2.png"):
        assert f"  {scenes / name}: found" in done.err
    refused = cli("predict", scenes, "-w", tiny_weights, "--out", tmp_path / "strict", "--strict", *LOW)
    assert refused.code == 2
    assert refused.err.count("error:") == 1
    assert f"{scenes / 'cut.png'}: found a PNG that is cut off" in refused.err


def test_nothing_but_bad_images(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("x")
    done = cli("predict", tmp_path / "a.png", "-w", tiny_weights, "--out", tmp_path / "out", *LOW)
    assert done.code == 2
    assert "none of the images" in done.err
    assert "a.png: found a file that does not decode" in done.err


def test_images_of_every_kind(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    folder, rng = tmp_path / "kinds", np.random.default_rng(0)
    folder.mkdir()
    rgb = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(rgb[:1, :1]).save(folder / "one.png")
    Image.fromarray(np.repeat(rgb[:1, :1], 5000, 1)).save(folder / "wide.png")
    Image.fromarray(np.repeat(rgb[:1, :1], 5000, 0)).save(folder / "tall.png")
    Image.fromarray(rgb[..., 0]).save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, rgb[..., 0]])).save(folder / "rgba.png")
    Image.fromarray(rgb).convert("P").save(folder / "palette.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(rgb).save(folder / "a name with spaces.tif")
    done = cli("predict", folder, "-w", tiny_weights, "--out", tmp_path / "out", "--strict", *LOW)
    assert done.code == 0, done.err
    assert len(stems(tmp_path / "out")) == len(list((tmp_path / "out/images").iterdir())) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: out.write_text("file"), "found a file; expected a folder to write results to"),
        (
            lambda out: ((out / "Task1").mkdir(parents=True), (out / "Task1/Task1_boat.txt").touch()),
            "Task1_boat.txt: found detections",
        ),
    ],
    ids=["a-file", "other-classes"],
)
def test_a_target_that_cannot_be_used_is_said_before_the_work(
    make: Callable, message: str, cli: Callable, scenes: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    make(tmp_path / "out")
    done = cli("predict", scenes, "-w", tiny_weights, "--out", tmp_path / "out", *LOW)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out/images").exists()


def test_several_sources(tiny_weights: Path, tiny_dataset: Path, tmp_path: Path, cli: Callable) -> None:
    """As a shell gives them for a pattern without quotation marks; each image once."""
    images = tiny_dataset / "val/images"
    done = cli("predict", images / "p0.png", images / "p1.png", images, "--weights", tiny_weights, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out/detections.json").read_text())
    assert [entry["name"] for entry in found["images"]] == ["p0", "p1"]
    refused = cli("predict", images, images, "--weights", tiny_weights, "--ray", "local")
    assert (refused.code, "--ray takes one source" in refused.err) == (2, True)
