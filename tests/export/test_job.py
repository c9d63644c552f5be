"""What an export is compared and calibrated on, and which options go together."""

from pathlib import Path
from typing import Any

import pytest

from rotanext.errors import UserError
from rotanext.export import job
from rotanext.export.job import ExportOptions, evenly
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
        ({"form": "torch", "out": "m.pt2", "precision": "int8", "calibrate": Path()}, "for torch take fp32 or fp16"),
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
