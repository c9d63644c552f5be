"""Detections in other libraries' types."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import convert_bounding_box_format

from rotanext import Detections
from rotanext.boxes import boxes_to_corners
from rotanext.errors import UserError
from rotanext.interop import from_tv_tensors, to_coco_results, to_supervision, to_tv_tensors

BOXES = torch.tensor([[50.0, 40, 20, 10, 0.5], [30, 30, 12, 12, -math.pi / 2], [10, 20, 30, 4, 0]])
FOUND = Detections(BOXES, torch.tensor([0.9, 0.5, 0.25]), torch.tensor([1, 0, 1]), ("a", "b"))
NONE = Detections(torch.zeros(0, 5), torch.zeros(0), torch.zeros(0, dtype=torch.int64), ("a", "b"))


def test_torchvision_means_the_same_corners() -> None:
    boxes = to_tv_tensors(FOUND, 80, 100)
    assert boxes.canvas_size == (80, 100)
    theirs = convert_bounding_box_format(boxes, new_format="XYXYXYXY").as_subclass(torch.Tensor).reshape(-1, 4, 2)
    ours = boxes_to_corners(BOXES)
    assert torch.cdist(theirs, ours).amin(2).max() < 1e-3
    assert torch.allclose(from_tv_tensors(boxes), BOXES, atol=1e-5)
    assert to_tv_tensors(NONE, 80, 100).shape == (0, 5)


@pytest.mark.parametrize("turned", [True, False])
def test_coco_results(turned: bool) -> None:
    rows = json.loads(json.dumps(to_coco_results({7: FOUND, 8: NONE}, {"a": 3, "b": 9}, turned)))
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(7, 9), (7, 3), (7, 9)]
    assert rows[0]["bbox"][4:] == ([pytest.approx(-math.degrees(0.5), abs=1e-5)] if turned else [])
    assert rows[2]["bbox"][:4] == ([10, 20, 30, 4] if turned else [-5, 18, 30, 4])
    assert [row["category_id"] for row in to_coco_results({7: FOUND})] == [2, 1, 2]


def test_missing_ids_are_refused() -> None:
    with pytest.raises(UserError, match="found no id of b"):
        to_coco_results({1: FOUND}, {"a": 1})
    with pytest.raises(UserError, match="found 1 ids"):
        to_coco_results({1: FOUND}, [1])


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    for found in (FOUND, NONE):
        theirs = to_supervision(found)
        assert theirs.xyxy.shape == (len(found), 4)
        assert theirs.data["xyxyxyxy"].shape == (len(found), 4, 2)
        assert theirs.data["class_name"].tolist() == found.names
    np.testing.assert_allclose(to_supervision(FOUND).xyxy[2], [-5, 18, 25, 22])
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        to_supervision(FOUND)


def test_supervision_itself() -> None:
    supervision = pytest.importorskip("supervision")
    assert isinstance(to_supervision(FOUND), supervision.Detections)
