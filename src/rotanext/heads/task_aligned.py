"""Task-aligned assignment for rotated boxes: an object is learnt where class and box are predicted best (arXiv:2108.07755).

Every function is pure, takes the objects of a whole batch at once, and stores pairs of a point and an object near it, never a
matrix of points x objects.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rotanext.ops import rotated_iou_pairs


class Grid(NamedTuple):
    """Points of every level of one image, as `heads.points.grid` lists them."""

    sizes: list[tuple[int, int]]  # (height, width) of each level's map
    strides: tuple[int, ...]
    offset: float  # of a point in its cell, in strides


class Pairs(NamedTuple):
    """Points and objects that may belong together, by object; `[K]` int64 each."""

    point: Tensor  # number in its image, over all levels
    object: Tensor  # number in the batch


class Assigned(NamedTuple):
    """The points that learn an object, `[K]` each."""

    image: Tensor
    point: Tensor
    object: Tensor  # number in the batch
    target: Tensor  # float32, 0 to 1: the score the point should give to the object's class, and its weight in the box losses


def near_pairs(grid: Grid, boxes: Tensor, radius: float) -> Pairs:
    """Pairs of `boxes [G, 5]` with all points that lie in them, or within `radius` strides of their centre."""
    found = []
    centre, half = boxes[:, :2], boxes[:, 2:4] / 2
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    around = torch.stack([half[:, 0] * cos.abs() + half[:, 1] * sin.abs(), half[:, 0] * sin.abs() + half[:, 1] * cos.abs()], -1)
    first = 0
    for (height, width), stride in zip(grid.sizes, grid.strides, strict=True):
        reach = around.clamp_min(radius * stride)
        last = torch.tensor([width - 1, height - 1], device=boxes.device)
        low = ((centre - reach) / stride - grid.offset).ceil().clamp_min(0).long()
        high = torch.minimum(((centre + reach) / stride - grid.offset).floor().long(), last)
        columns, rows = (high - low + 1).clamp_min(0).unbind(-1)
        counts = columns * rows
        item = torch.repeat_interleave(counts)
        place = torch.arange(len(item), device=boxes.device) - (counts.cumsum(0) - counts)[item]
        x, y = low[item, 0] + place % columns[item], low[item, 1] + place // columns[item]
        dx, dy = (torch.stack([x, y], -1) + grid.offset).mul(stride).sub(centre[item]).unbind(-1)
        along, across = (cos[item] * dx + sin[item] * dy).abs(), (cos[item] * dy - sin[item] * dx).abs()
        inside = (along < half[item, 0]) & (across < half[item, 1])
        near = (inside | (dx.square() + dy.square() < (radius * stride) ** 2)).nonzero()[:, 0]
        found.append((first + y[near] * width + x[near], item[near]))
        first += height * width
    point, item = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = torch.argsort(item, stable=True)
    return Pairs(point[order], item[order])


def ranks(group: Tensor, values: Tensor) -> Tensor:
    """Place `[K]` (from 0) of each value among those of its group, largest first; of equal ones the earlier comes first."""
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    ordered = group[order]
    place = torch.arange(len(group), device=group.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(place).scatter_(0, order, place)


def largest(group: Tensor, values: Tensor, groups: int) -> Tensor:
    """The largest value `[groups]` of each group; 0 where it has none. Values are at least 0."""
    return values.new_zeros(groups).scatter_reduce_(0, group, values, "amax")


@torch.no_grad()
def assign(
    grid: Grid,
    predicted: Tensor,
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    image: Tensor,
    *,
    candidates: int,
    radius: float,
    score_power: float,
    iou_power: float,
) -> Assigned:
    """Which points learn which objects, and how strongly.

    predicted `[B, P, 5]` and logits `[B, P, C]` are the network's, boxes `[G, 5]`, labels and image `[G]` all images' objects.
    Of the points near an object (`near_pairs`) those `candidates` with the largest alignment, score^score_power * IoU^iou_power,
    learn it; a point that several objects want learns the one it overlaps most, of equal ones the earlier. Its target is its
    alignment, scaled so that the object's best one has the object's best IoU.
    """
    pairs = near_pairs(grid, boxes, radius)
    where = image[pairs.object]
    iou = rotated_iou_pairs(predicted[where, pairs.point], boxes[pairs.object]).clamp(0, 1)
    alignment = logits[where, pairs.point, labels[pairs.object]].float().sigmoid() ** score_power * iou**iou_power
    chosen = (ranks(pairs.object, alignment) < candidates) & (alignment > 0)
    point, item, where, iou, alignment = (v[chosen] for v in (pairs.point, pairs.object, where, iou, alignment))
    alone = ranks(where * predicted.shape[1] + point, iou) == 0
    point, item, where, iou, alignment = (v[alone] for v in (point, item, where, iou, alignment))
    best, overlap = largest(item, alignment, len(boxes)), largest(item, iou, len(boxes))
    return Assigned(where, point, item, alignment / best[item] * overlap[item])
