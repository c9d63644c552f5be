"""Exported graphs as networks, and which options they take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exported import CLASSES, Change, image, in_torch, small_graph
from rotanext.config import load_config
from rotanext.errors import UserError
from rotanext.export.metadata import Metadata
from rotanext.export.onnx_file import seal
from rotanext.export.runtime import open_exported
from rotanext.inference.detector import Detector


@pytest.mark.parametrize("size", [(1, 1), (32, 33), (100, 259), (1024, 1000)])
def test_level_sizes_are_the_networks(detector: Detector, size: tuple[int, int]) -> None:
    with torch.no_grad():
        batch = detector.model.prepare([torch.zeros(*size, 3, dtype=torch.uint8)])
        logits, _ = detector.model(batch)
    assert detector.config.neck.level_sizes(*size) == [tuple(level.shape[2:]) for level in logits]


@pytest.mark.parametrize("size", [(40, 70), (96, 96)])
def test_an_exported_network_detects_as_the_one_in_torch(detector: Detector, size: tuple[int, int]) -> None:
    exported = in_torch(detector)
    found, expected = exported(image(*size)), detector(image(*size))
    assert len(expected) > 0
    assert found.class_names == CLASSES
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("size", [(96, 96), (40, 70)])
def test_absurd_boxes_are_dropped_as_in_torch(detector: Detector, size: tuple[int, int]) -> None:
    """The graph gives boxes; what is at the clamp, the wrapper tells by them."""
    counts = []
    for drop in (True, False):
        changed = detector.reconfigured(drop_absurd=drop, iou_threshold=1.0, top_k=10**6, max_detections=10**6)
        found, expected = (one.reconfigured(score_threshold=0.0)(image(*size)) for one in (in_torch(changed), changed))
        assert len(found) == len(expected) > 0
        counts.append(len(expected))
    every = sum(h * w for h, w in detector.config.neck.level_sizes(*size)) * len(CLASSES)
    assert counts[1] == every * 9
    assert 0 < counts[0] <= every * 7


def spoilt(logits: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half of the boxes are no numbers, or without area."""
    boxes[:, ::8, 2], boxes[:, 2::8, 0], boxes[:, 4::8, 3], boxes[:, 6::8, 2:4] = np.nan, np.inf, 0, -5
    return logits, boxes


def test_what_is_no_box_is_not_detected_whatever_the_setting(detector: Detector) -> None:
    for drop in (True, False):
        exported = in_torch(detector, change=spoilt).reconfigured(drop_absurd=drop)
        found = exported(image(96, 96), score_threshold=0.01)
        assert len(found) > 0
        assert found.boxes.isfinite().all()
        assert (found.boxes[:, 2:4] > 0).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda logits, boxes: (logits[:, :-1], boxes),
        lambda logits, boxes: (logits, boxes[..., :4]),
        lambda logits, boxes: (logits[..., :1], boxes),
        lambda logits, boxes: (logits.astype(np.float64), boxes),
        lambda logits, boxes: (logits, boxes.astype(np.float16)),
    ],
    ids=["a prior less", "no angle", "a class less", "float64", "float16"],
)
def test_other_outputs_than_the_metadata_says_are_refused(detector: Detector, change: Change) -> None:
    with pytest.raises(UserError, match=r"m\.onnx: found outputs .*export the checkpoint again"):
        in_torch(detector, change=change)(image(40, 40))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An ONNX file of ours, whose graph is none of a detector."""
    (tmp_path / "m.ONNX").write_bytes(small_graph())
    seal(tmp_path / "m.ONNX", Metadata(CLASSES, load_config("small"), "fp32"))
    return tmp_path / "m.ONNX"


def test_files_are_known_by_their_suffix_in_any_case(file: Path) -> None:
    detector, metadata = open_exported(file, device="cpu")
    assert detector.class_names == metadata.class_names == CLASSES
    assert detector.exported is not None
    assert detector.device.type == "cpu"
    assert open_exported(file, class_names=("a", "b"))[0].class_names == ("a", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ("a", "b", "c")}, "found 2 classes; expected 3, as given"),
        ({"precision": "fp16"}, "choose the precision when exporting"),
        ({"compiled": True}, "Leave out --precision and --compile"),
        ({"device": "nonsense"}, "nonsense"),
    ],
    ids=str,
)
def test_options_that_exported_files_do_not_take(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_exported(file, **options)
