"""Our head: what its numbers mean, and what its losses reward. What every head keeps to is in test_contract.py."""

import math
from typing import Any

import pytest
import torch

from rotanext.heads import points as grids
from rotanext.heads.aligned import LIMIT, OFFSET, PRIOR, START, AlignedConfig, length, to_boxes, to_numbers
from rotanext.heads.contract import Raw, Targets
from rotanext.ops import rotated_iou_pairs

SECTION: Any = {
    "kind": "aligned", "stacked_convs": 1, "candidates": 10, "radius": 1.0, "score_power": 0.5, "iou_power": 6.0,
    "box_loss_weight": 4.0, "offset_loss_weight": 0.5, "angle_loss_weight": 1.5,
}  # fmt: skip
CLASSES, STRIDES, SIZES = 2, (8, 16), [(12, 12), (6, 6)]
OBJECTS = torch.tensor([[40.0, 40, 50, 20, 0.4], [70, 70, 24, 24, -0.8]])
LABELS = torch.tensor([1, 0])


def test_boxes_and_their_numbers() -> None:
    points, strides = grids.grid(SIZES, STRIDES, OFFSET, torch.device("cpu"))
    boxes = OBJECTS[torch.arange(len(points)) % 2]
    torch.testing.assert_close(to_boxes(to_numbers(boxes, points, strides), points, strides), boxes, rtol=1e-5, atol=1e-4)


def test_a_fresh_head_predicts_squares_of_three_strides_at_its_points() -> None:
    head = AlignedConfig(**SECTION).build(8, STRIDES, CLASSES)
    with torch.no_grad():
        raw = head([torch.zeros(1, 8, *size) for size in SIZES])
        boxes = head.decode(raw)[0]
    points, strides = grids.grid(SIZES, STRIDES, OFFSET, torch.device("cpu"))
    torch.testing.assert_close(boxes[:, :2], points, atol=0.1, rtol=0)
    torch.testing.assert_close(boxes[:, 2], START * strides, atol=0.5, rtol=0)
    assert torch.cat([level.flatten() for level in raw.logits]).sigmoid().mean() == pytest.approx(PRIOR, rel=0.2)


def test_no_vector_has_no_angle_but_a_gradient() -> None:
    numbers = torch.zeros(1, 6, requires_grad=True)
    box = to_boxes(numbers, torch.zeros(1, 2), torch.tensor([8.0]))
    box.sum().backward()
    assert box[0, 4] == 0
    assert numbers.grad is not None
    assert numbers.grad.isfinite().all()


def test_sides_stop_at_the_limit() -> None:
    wild = torch.tensor([[0.0, 0, 50, -50, 1, 0]])
    box = to_boxes(wild, torch.zeros(1, 2), torch.tensor([8.0]))[0]
    assert box[2:4].tolist() == pytest.approx([24 * math.exp(LIMIT), 24 * math.exp(-LIMIT)])


def perfect(score: float) -> tuple[Any, Raw]:
    """A head and raw outputs in which every point gives its nearest object's box, and its class that score."""
    head = AlignedConfig(**SECTION).build(8, STRIDES, CLASSES)
    logits, geometry = [], []
    for size, stride in zip(SIZES, STRIDES, strict=True):
        points, strides = grids.grid([size], (stride,), OFFSET, torch.device("cpu"))
        nearest = torch.cdist(points, OBJECTS[:, :2]).argmin(1)
        scores = torch.full((len(points), CLASSES), -10.0)
        scores[torch.arange(len(points)), LABELS[nearest]] = math.log(score / (1 - score))
        logits.append(scores.T.reshape(1, CLASSES, *size).requires_grad_())
        geometry.append(to_numbers(OBJECTS[nearest], points, strides).T.reshape(1, 6, *size).requires_grad_())
    return head, Raw(logits, geometry)


def test_right_boxes_cost_nothing_and_wrong_scores_do() -> None:
    targets = Targets([OBJECTS], [LABELS])
    head, raw = perfect(0.9)
    found = head.losses(raw, targets)
    terms = {name: float(term.sum.detach() / term.weight) for name, term in found.terms.items()}
    assert terms["box"] == pytest.approx(0, abs=1e-4)
    assert terms["offset"] == pytest.approx(0, abs=1e-4)
    assert terms["angle"] == pytest.approx(0, abs=1e-4)
    assert 2 <= found.positives <= 20


def test_scores_are_wanted_where_points_learn_and_nowhere_else() -> None:
    targets = Targets([OBJECTS], [LABELS])
    head, raw = perfect(0.9)
    head.losses(raw, targets).terms["cls"].sum.backward()
    wanted = torch.cat([(level.grad < 0).flatten(2) for level in raw.logits], 2)[0]  # a larger score would cost less
    assigned = head.assign(raw, targets)
    expected = torch.zeros_like(wanted)
    expected[LABELS[assigned.object], assigned.point] = True
    assert expected.sum() == len(assigned.point) > 10
    assert torch.equal(wanted, expected)


def test_the_targets_are_the_boxes_overlap() -> None:
    """What a score should say: with boxes of IoU 0.6 the best point's target is 0.6."""
    head, raw = perfect(0.9)
    moved = Raw(raw.logits, [level.detach().clone() for level in raw.geometry])
    for level, stride in zip(moved.geometry, STRIDES, strict=True):
        level[:, 0] += 5 / stride
    assigned = head.assign(moved, Targets([OBJECTS], [LABELS]))
    shifted = OBJECTS + torch.tensor([5.0, 0, 0, 0, 0])
    iou = rotated_iou_pairs(shifted, OBJECTS)
    for item in range(2):
        assert assigned.target[assigned.object == item].max() == pytest.approx(float(iou[item]), abs=1e-3)


def test_a_square_has_no_angle_to_learn() -> None:
    assert length(torch.tensor([[0.0, 0, 10, 10, 0.7], [0, 0, 40, 10, 0.7], [0, 0, 0, 0, 0]])).tolist() == [0, 1 - 1 / 16, 1]


@pytest.mark.parametrize("angle", [-math.pi / 2, -0.3, 0.0, 1.5])
def test_the_numbers_do_not_jump_where_the_angle_does(angle: float) -> None:
    box = torch.tensor([[3.0, 5, 40, 10, angle]])
    turned = box + torch.tensor([0, 0, 0, 0, math.pi])  # the same box
    point, stride = torch.zeros(1, 2), torch.tensor([8.0])
    torch.testing.assert_close(to_numbers(box, point, stride), to_numbers(turned, point, stride), rtol=1e-5, atol=1e-5)
