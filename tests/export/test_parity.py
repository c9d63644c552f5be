"""The comparison of an exported detector with PyTorch: its numbers and its verdict."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from exported import Change, image, in_torch
from rotanext.detections import Detections
from rotanext.export.parity import TOLERANCES, Parity, compare, share_matched
from rotanext.inference.detector import Detector


def test_detections_that_only_the_exported_one_has_are_a_fault() -> None:
    parity = Parity("fp32", "test", TOLERANCES["fp32"])
    assert not parity.faults
    boxes = torch.tensor([[50.0, 50.0, 20.0, 10.0, 0.0]])
    found = Detections(boxes, torch.tensor([0.9]), torch.tensor([0]), ("ship",))
    nothing = Detections(boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64), ("ship",))
    assert share_matched([(nothing, found)], parity) == 0.0
    assert share_matched([(found, found)], parity) == 1.0
    assert share_matched([(nothing, nothing)], parity) == 1.0


def test_a_detector_is_equal_to_itself(detector: Detector) -> None:
    tiles = [image(96, 96), image(70, 90)]
    parity = compare(detector, in_torch(detector), tiles, "fp32", "torch")
    assert parity.faults == []
    assert (parity.tiles, parity.matched, parity.detections) == (2, 1.0, parity.detections_exported)
    assert parity.detections > 5
    assert parity.priors == 500 * len(parity.batches) + 500  # the batch of two counts twice
    assert parity.batches == [[1, 96, 96], [1, 70, 90], [2, 96, 96], [1, 65, 57]]
    assert parity.score_difference <= 1e-5


def logits_up(logits: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return logits + 1, boxes


def boxes_moved(logits: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes[..., 0] += 3
    return logits, boxes


def no_numbers(logits: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes[:, ::7] = np.nan
    return logits, boxes


@pytest.mark.parametrize(
    ("change", "fault"),
    [(logits_up, "scores differ by"), (boxes_moved, "corners differ, in sides"), (no_numbers, "corners differ, .* by inf")],
)
def test_what_differs_is_a_fault(detector: Detector, change: Change, fault: str) -> None:
    parity = compare(detector, in_torch(detector, change=change), [image(96, 96)], "fp32", "torch")
    assert any(re.match(fault, found) for found in parity.faults), parity.faults
    assert f"FAILED: {parity.faults[0]}" in parity.text()
    assert parity.to_json()["passed"] is False


def test_the_same_rectangle_counted_from_another_corner_is_no_difference(detector: Detector) -> None:
    def other_way(logits: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes[..., 4] += np.float32(np.pi)
        return logits, boxes

    parity = compare(detector, in_torch(detector, change=other_way), [image(96, 96)], "fp32", "torch")
    assert parity.corner_difference_relative < 1e-3


@pytest.mark.parametrize(
    ("precision", "values", "faults"),
    [
        ("fp32", {"score_difference": 1e-3, "corner_difference_relative": 1e-2, "matched": 0.99}, 0),  # at the edge
        ("fp32", {"score_difference": 1.1e-3}, 1),
        ("fp32", {"score_difference": float("nan")}, 1),
        ("fp32", {"matched": float("nan")}, 1),
        ("fp32", {"corner_difference_relative": 0.02, "matched": 0.9}, 2),
        ("fp16", {"corner_difference_relative": 9.0, "corner_difference_relative_p99": 0.04}, 0),  # single priors may be far off
        ("fp16", {"corner_difference_relative_p99": 0.06}, 1),
        ("int8", {"score_difference": 0.49, "matched": 0.86}, 0),
        ("int8", {"matched": 0.84}, 1),
    ],
)
def test_what_is_beyond_tolerance(precision: str, values: dict[str, float], faults: int) -> None:
    assert len(Parity(precision, "test", TOLERANCES[precision], **values).faults) == faults


def test_the_report_is_json(tmp_path: Path) -> None:
    parity = Parity("fp32", "test", TOLERANCES["fp32"], tiles=1, accuracy={"PyTorch fp32": {"map50": 0.5, "map75": None}})
    parity.write(tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["passed"], found["tiles"], found["accuracy"]) == (True, 1, parity.accuracy)
    assert "  map50 0.5000, map75 none (PyTorch fp32)" in parity.text().splitlines()


def test_counterparts_are_of_one_class() -> None:
    boxes = torch.tensor([[50.0, 50, 20, 10, 0], [20, 20, 20, 10, 0]])
    one = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), ("ship", "plane"))
    other = Detections(boxes, torch.tensor([0.7, 0.8]), torch.tensor([0, 0]), ("ship", "plane"))
    parity = Parity("fp32", "test", TOLERANCES["fp32"])
    assert share_matched([(one, other)], parity) == 0.5
    assert parity.matched_score_difference == pytest.approx(0.2)
    assert (parity.detections, parity.detections_exported) == (2, 2)
