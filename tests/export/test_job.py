"""What an export is compared and calibrated on, and which options go together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotanext.errors import UserError
from rotanext.export import job
from rotanext.export.job import ExportOptions, evenly, written
from rotanext.inference.detector import Detector


def test_images_to_compare_on(detector: Detector, images: Path, tmp_path: Path) -> None:
    """Those asked for, else those of the training where they are here, else drawn ones; never a failure over those nobody named."""

    def of(trained: Path, **options: Path) -> str:
        data = detector.config.data.model_copy(update={"train": [str(trained)], "val": []})
        one = Detector(detector.model, detector.config.model_copy(update={"data": data}), detector.class_names)
        tiles, name = job._compared(one, ExportOptions("onnx", tmp_path / "m.onnx", **options))
        assert tiles
        return name

    assert of(tmp_path / "gone", check=images) == of(tmp_path, evaluate=images) == of(images) == str(images)
    assert of(tmp_path / "gone").startswith("drawn scenes")
    assert of(tmp_path / ("x" * 300)).startswith("drawn scenes")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_text("no image")
    assert of(tmp_path).startswith("drawn scenes")
    with pytest.raises(UserError, match=r"a\.png"):
        of(images, check=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "tflite"}, "expected onnx, openvino, torch"),
        ({"precision": "int4"}, "expected fp32, fp16, int8"),
        ({"out": "m.bin"}, "one that ends in .onnx"),
        ({"precision": "int8"}, "needs --calibrate"),
        ({"calibrate": Path()}, "belongs to --precision int8"),
        ({"form": "torch", "out": "m.pt2", "precision": "int8", "calibrate": Path()}, "for torch use fp32 or fp16"),
        ({"check": Path("nowhere")}, "nothing there"),
    ],
)
def test_wrong_options_are_refused_before_any_work(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"form": "onnx", "out": "m.onnx", "precision": "fp32", "calibrate": None, "check": None} | options
    wrong = ExportOptions(given["form"], tmp_path / given["out"], given["precision"], given["calibrate"], given["check"])
    with pytest.raises(UserError, match=message):
        job.check_options(wrong)


def test_images_for_calibration_are_taken_from_everywhere() -> None:
    assert evenly(3, 8) == [0, 1, 2]
    taken = evenly(127, 64)
    assert (len(set(taken)), taken[0], taken[-1]) == (64, 0, 126)


@pytest.mark.parametrize(("count", "most"), [(0, 4), (4, 4), (5, 4), (1000, 2)])
def test_indices_are_spread_over_all(count: int, most: int) -> None:
    taken = evenly(count, most)
    assert len(taken) == min(count, most)
    assert taken == sorted(set(taken))
    assert not taken or (taken[0], taken[-1]) == (0, count - 1)


def test_the_weights_of_an_xml_belong_to_it() -> None:
    assert written(Path("a/m.onnx")) == [Path("a/m.onnx")]
    assert written(Path("a/m.XML")) == [Path("a/m.XML"), Path("a/m.bin")]


@pytest.mark.parametrize(("size", "most", "shapes"), [(0, 5, {(40, 40, 3)}), (48, 5, {(48, 48, 3)})], ids=["tiles", "resized"])
def test_tiles_are_cut_as_the_detector_cuts_them(
    detector: Detector, images: Path, size: int, most: int, shapes: set[tuple[int, ...]]
) -> None:
    """Of the three images of 64 x 64, some of each; no more than asked."""
    cutter = detector.reconfigured(image_size=size, tile=40, overlap=8)
    for folder in (images, images / "images"):
        tiles = job._tiles(cutter, folder, most)
        assert len(tiles) == (most if not size else 3)
        assert {tile.shape for tile in tiles} == shapes
        assert all(tile.flags.c_contiguous and tile.dtype == np.uint8 for tile in tiles)


@pytest.mark.parametrize("name", ["m.xml", "m.onnx"])
def test_a_passed_file_replaces_the_earlier_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for folder, text in ((tmp_path, "old"), (tmp_path / "new", "new")):
        for file in (name, "m.bin"):
            (folder / file).write_text(text)
    job._place(tmp_path / "new" / name, tmp_path / name)
    assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "m.bin").read_text() == ("new" if name == "m.xml" else "old")


def test_a_name_that_is_taken_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    (tmp_path / "made").write_text("new")
    with pytest.raises(UserError, match=r"m\.onnx: found that it cannot be written"):
        job._place(tmp_path / "made", tmp_path / "m.onnx")
