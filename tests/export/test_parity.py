"""The comparison of an exported detector with PyTorch: its numbers and its verdict."""

import torch

from rotanext.detections import Detections
from rotanext.export.parity import TOLERANCES, Parity, share_matched


def test_detections_that_only_the_exported_one_has_are_a_fault() -> None:
    parity = Parity("fp32", "test", TOLERANCES["fp32"])
    assert not parity.faults
    boxes = torch.tensor([[50.0, 50.0, 20.0, 10.0, 0.0]])
    found = Detections(boxes, torch.tensor([0.9]), torch.tensor([0]), ("ship",))
    nothing = Detections(boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64), ("ship",))
    assert share_matched([(nothing, found)], parity) == 0.0
    assert share_matched([(found, found)], parity) == 1.0
    assert share_matched([(nothing, nothing)], parity) == 1.0
