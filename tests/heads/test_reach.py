"""Which objects the anchors reach, and what is said where they do not."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from rotanext.heads.anchors import STRIDES, V0, V1, AnchorRule
from rotanext.heads.reach import best_iou, reach
from rotanext.ops import rotated_iou

NONE = torch.zeros(0, 5)


def squares(side: float, count: int = 20) -> Tensor:
    """Upright squares on positions of the level of stride 8."""
    at = torch.arange(count) * 8.0
    return torch.stack([at, at, *torch.full((2, count), side), torch.zeros(count)], 1)


def test_coverage_is_that_of_the_whole_grid() -> None:
    """The best of a few anchors around an object is the best of all of them."""
    rng = np.random.default_rng(0)
    sides = 8 * 2 ** rng.uniform(0, 4, (60, 2))
    values = np.column_stack([rng.uniform(40, 216, (60, 2)), sides.max(1), sides.min(1), rng.uniform(-1.57, 1.57, 60)])
    boxes = torch.tensor(values, dtype=torch.float32)
    for rule in (AnchorRule(), AnchorRule("v1", 2.0, 2, (1.0, 0.3, 3.0))):
        grid = torch.cat(rule.grid([(256 // s + 4, 256 // s + 4) for s in (8, 16, 32, 64, 128)]))
        whole = rotated_iou(boxes, grid).amax(1)
        assert (best_iou(boxes, rule) - whole).abs().max() < 1e-6


@pytest.mark.parametrize("rule", [V0, V1], ids=["v0", "v1"])
@pytest.mark.parametrize("stride", STRIDES)
def test_a_box_on_an_anchor_is_reached_wholly(rule: AnchorRule, stride: int) -> None:
    anchors = rule.level(6, 6, stride)[20 * rule.per_position :: 7]
    torch.testing.assert_close(best_iou(anchors, rule), torch.ones(len(anchors)), rtol=0, atol=1e-5)


def test_boxes_beyond_any_anchor() -> None:
    tiny, huge = torch.tensor([[40.0, 40, 2, 2, 0]]), torch.tensor([[40.0, 40, 9000, 9000, 0]])
    assert best_iou(torch.cat([tiny, huge]), V0).tolist() == pytest.approx(
        [4 / 32**2, (4 * 128 * 2 ** (2 / 3)) ** 2 / 9000**2], rel=1e-3
    )
    assert best_iou(torch.tensor([[40.0, 40, 0, 0, 0]]), V0).tolist() == [0]
    assert best_iou(NONE, V0).shape == (0,)


def test_many_boxes_are_looked_at_in_parts() -> None:
    boxes = squares(33, 300)
    torch.testing.assert_close(best_iou(boxes, V0), torch.cat([best_iou(boxes[:100], V0), best_iou(boxes[100:], V0)]))


def test_anchors_that_fit() -> None:
    found = reach(squares(32), V0, 0.5, "small")
    assert found.advice == ["The anchors fit: 100.0 % of the objects have one of IoU 0.5 or more."]
    assert (found.least, found.measure) == (0.5, "IoU of the best anchor")
    assert (found.fit > 0.99).all()
    assert reach(NONE, V0, 0.5, "small").advice == ["The anchors fit: 100.0 % of the objects have one of IoU 0.5 or more."]


def test_a_few_objects_out_of_reach_are_not_worth_advice() -> None:
    boxes = torch.cat([squares(32, 98), squares(4, 2)])  # 2 % of them
    assert reach(boxes, V0, 0.5, "small").advice == ["The anchors fit: 98.0 % of the objects have one of IoU 0.5 or more."]
    boxes = torch.cat([squares(32, 97), squares(4, 3)])
    assert reach(boxes, V0, 0.5, "small").advice[0].startswith("3.0 % of the objects have no anchor of IoU 0.5")


def test_a_change_that_helps_is_named() -> None:
    """Small squares want a smaller scale, and no other ratios; what is promised is true."""
    boxes = squares(16)
    found = reach(boxes, V0, 0.5, "small")
    assert (found.fit < 0.5).all()
    assert found.advice[0] == "100.0 % of the objects have no anchor of IoU 0.5: each learns from its single best one."
    assert "With head.anchor_scale=2 behind rotanext train small it would be 0.0 %." in found.advice[1]
    assert (best_iou(boxes, AnchorRule("v0", 2.0)) >= 0.5).all()


def test_slender_boxes_want_other_ratios() -> None:
    at = torch.arange(40) * 8.0
    boxes = torch.stack([at, at, torch.full((40,), 140.0), torch.full((40,), 14.0), torch.zeros(40)], 1)
    advice = reach(boxes, V0, 0.5, "small").advice[1]
    ratios = re.search(r"'head\.anchor_ratios=\[([\d.,]+)\]'", advice)
    assert ratios
    assert "anchor_scale" not in advice
    rule = AnchorRule("v0", ratios=tuple(float(value) for value in ratios[1].split(",")))
    promised = float(re.search(r"it would be ([\d.]+) %", advice)[1])  # type: ignore[index]
    assert float((best_iou(boxes, rule) < 0.5).float().mean()) == pytest.approx(promised / 100)


def test_where_no_change_helps_it_is_said() -> None:
    at = torch.arange(40) * 8.0
    boxes = torch.stack([at, at, torch.full((40,), 300.0), torch.full((40,), 4.0), torch.full((40,), 0.785)], 1)
    assert reach(boxes, V0, 0.5, "small").advice[1].startswith("Upright anchors fit long rotated objects badly by nature")
