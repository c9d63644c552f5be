"""Task-aligned assignment without matrices, against its definition with them."""

import math

import pytest
import torch
from torch import Tensor

from rotanext.heads import points as grids
from rotanext.heads.task_aligned import Grid, assign, largest, near_pairs, ranks
from rotanext.ops import rotated_iou

CLASSES = 3
GRID = Grid([(12, 9), (6, 5), (3, 3)], (8, 16, 32), 0.5)
POINTS, STRIDES = grids.grid(GRID.sizes, GRID.strides, GRID.offset, torch.device("cpu"))
RULE = {"candidates": 4, "radius": 1.0, "score_power": 0.5, "iou_power": 6.0}


def objects(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes, some of them beyond the image's edges, and their labels."""
    random = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-20.0, -20, 2, 2, -1.5]), torch.tensor([92.0, 116, 70, 40, 1.5])
    boxes = low + (high - low) * torch.rand(count, 5, generator=random)
    boxes[:, 2:4] = boxes[:, 2:4].sort(dim=1, descending=True).values
    return boxes, torch.randint(CLASSES, (count,), generator=random)


def near(boxes: Tensor, radius: float) -> Tensor:
    """Whether each point `[P, G]` lies in each box, or so many strides from its centre."""
    dx, dy = (POINTS[:, None] - boxes[None, :, :2]).unbind(-1)
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    inside = ((cos * dx + sin * dy).abs() < boxes[:, 2] / 2) & ((cos * dy - sin * dx).abs() < boxes[:, 3] / 2)
    return inside | (dx.square() + dy.square() < (radius * STRIDES[:, None]) ** 2)


def by_definition(predicted: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor) -> dict[int, tuple[int, float]]:
    """Object and target of each point of one image that learns one."""
    overlap = rotated_iou(predicted, boxes)
    alignment = logits[:, labels].sigmoid() ** RULE["score_power"] * overlap ** RULE["iou_power"]
    alignment[~near(boxes, RULE["radius"])] = 0
    wanted: dict[int, list[int]] = {}
    for item in range(len(boxes)):
        best = sorted(range(len(POINTS)), key=lambda p: (-float(alignment[p, item]), p))[: int(RULE["candidates"])]
        for point in best:
            if alignment[point, item] > 0:
                wanted.setdefault(point, []).append(item)
    mine = {point: max(items, key=lambda i: (float(overlap[point, i]), -i)) for point, items in wanted.items()}
    found = {}
    for point, item in mine.items():
        others = [p for p, i in mine.items() if i == item]
        scale = max(float(overlap[p, item]) for p in others) / max(float(alignment[p, item]) for p in others)
        found[point] = item, float(alignment[point, item]) * scale
    return found


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_rule_on_random_images(seed: int) -> None:
    random = torch.Generator().manual_seed(1000 + seed)
    images = [objects(count, seed * 7 + count) for count in (0, 1, 3, 40)]
    predicted = torch.stack(
        [
            torch.cat([POINTS + 6 * torch.randn(len(POINTS), 2, generator=random), torch.rand(len(POINTS), 3, generator=random)], 1)
            for _ in images
        ]
    )
    predicted[..., 2:4] = STRIDES[:, None] * (1 + 4 * predicted[..., 2:4])
    logits = torch.randn(len(images), len(POINTS), CLASSES, generator=random)
    image = torch.repeat_interleave(torch.tensor([len(boxes) for boxes, _ in images]))
    boxes, labels = (torch.cat(parts) for parts in zip(*images, strict=True))
    found = assign(GRID, predicted, logits, boxes, labels, image, **RULE)
    first = torch.tensor([len(b) for b, _ in images]).cumsum(0) - torch.tensor([len(b) for b, _ in images])
    for number, (own, names) in enumerate(images):
        mine = found.image == number
        got = {
            int(p): (int(o - first[number]), float(t))
            for p, o, t in zip(found.point[mine], found.object[mine], found.target[mine], strict=True)
        }
        expected = by_definition(predicted[number], logits[number], own, names)
        assert {p: o for p, (o, _) in got.items()} == {p: o for p, (o, _) in expected.items()}
        assert [got[p][1] for p in sorted(got)] == pytest.approx([expected[p][1] for p in sorted(expected)], abs=1e-5)


@pytest.mark.parametrize("radius", [0.0, 0.6, 1.0, 3.0])
def test_pairs_are_all_points_in_or_near_an_object(radius: float) -> None:
    boxes, _ = objects(60, 5)
    pairs = near_pairs(GRID, boxes, radius)
    expected = near(boxes, radius)
    assert expected.sum() > 100
    assert set(zip(pairs.point.tolist(), pairs.object.tolist(), strict=True)) == {tuple(p) for p in expected.nonzero().tolist()}
    assert len(pairs.point) == expected.sum()
    assert (pairs.object.diff() >= 0).all()


def test_the_smallest_object_has_a_point_and_far_ones_have_none() -> None:
    boxes = torch.tensor([[33.0, 47, 1, 1, 0.3], [-500, 20, 30, 10, 0], [1e6, 1e6, 4, 4, 0]])
    pairs = near_pairs(GRID, boxes, 1.0)
    assert set(pairs.object.tolist()) == {0}


def test_equal_points_are_taken_in_order_and_targets_are_the_best_iou() -> None:
    box = torch.tensor([[36.0, 52, 24, 16, 0]])
    predicted = box.expand(1, len(POINTS), 5).clone()
    found = assign(GRID, predicted, torch.zeros(1, len(POINTS), CLASSES), box, torch.tensor([1]), torch.tensor([0]), **RULE)
    expected = near(box, 1.0)[:, 0].nonzero()[:, 0][:4]
    assert found.point.tolist() == expected.tolist()
    assert found.target.tolist() == pytest.approx([1.0] * 4)


def test_nothing_overlaps_nothing_is_learnt() -> None:
    box = torch.tensor([[36.0, 52, 24, 16, 0]])
    predicted = torch.tensor([900.0, 900, 5, 5, 0]).expand(1, len(POINTS), 5)
    found = assign(GRID, predicted, torch.zeros(1, len(POINTS), CLASSES), box, torch.tensor([1]), torch.tensor([0]), **RULE)
    assert len(found.point) == len(found.target) == 0


def test_a_crowd_needs_no_matrix() -> None:
    """2,000 objects on the points of a 1024 x 1024 image: a few hundred thousand pairs, not 43 million."""
    grid = Grid([(128, 128), (64, 64), (32, 32)], (8, 16, 32), 0.5)
    random = torch.Generator().manual_seed(0)
    boxes = torch.rand(2000, 5, generator=random) * torch.tensor([1024.0, 1024, 40, 20, math.pi])
    pairs = near_pairs(grid, boxes, 1.0)
    assert 2000 < len(pairs.point) < 100_000


def test_ranks_and_largest() -> None:
    group = torch.tensor([1, 0, 1, 1, 0])
    values = torch.tensor([0.5, 0.1, 0.9, 0.5, 0.3])
    assert ranks(group, values).tolist() == [1, 1, 0, 2, 0]
    assert largest(group, values, 3).tolist() == pytest.approx([0.3, 0.9, 0.0])
    assert ranks(group[:0], values[:0]).tolist() == []
