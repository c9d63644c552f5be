"""Dynamic soft-label assignment (RTMDet, arXiv:2212.07784): the rule's numbers, and what all implementations compute alike.

A pair of a point and an object costs C + I + D: how badly the point's logits say "this object's class, with the IoU of the box that
the point predicts as its score"; the negative logarithm of that IoU; and a distance that soars three strides from the object's
centre. Costs are computed in float64 and compared as float32, and IoUs are float32: so the last digits, in which processors and
libraries differ, have no say.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TOP_IOUS = 13  # an object takes as many points as its so many highest IoUs sum up to
IOU_WEIGHT = 3.0
IOU_EPSILON = 1e-7  # keeps the logarithm of IoU 0 finite
LEAST_IOU = 1e-9  # smaller ones are what rounding leaves of thin boxes that touch, and count as 0
CENTRE_RADIUS = 3.0  # strides, beyond which distance costs more than 1, ten times as much a stride
INNER_MARGIN = 0.01  # pixels by which a point must lie within an object's edges
LEAST_SIDE = 1e-3  # pixels: shorter and negative sides count as so long in the IoU
FARTHEST = 1e7  # pixels: centres beyond count as there in the IoU


class ClassCosts(NamedTuple):
    """What the classification cost is made of, float64."""

    softplus: Tensor  # [P, C] ln(1 + exp(logit))
    score: Tensor  # [P, C] sigmoid
    nothing: Tensor  # [P] the cost of all classes being absent


def wide(x: Tensor) -> Tensor:
    """The widest float type of the tensor's device (mps has no float64)."""
    return x.float() if x.device.type == "mps" else x.double()


def class_costs(logits: Tensor) -> ClassCosts:
    """The parts of the classification cost of logits `[P, C]`: its other classes are absent in every pair of a point."""
    logits = wide(logits)
    softplus, score = F.softplus(logits, threshold=1e3), logits.sigmoid()
    return ClassCosts(softplus, score, (softplus * score.square()).sum(1))


def clamped(boxes: Tensor) -> Tensor:
    """Boxes `[N, 5]` in float64 with the sides and centres that the IoU is computed of."""
    boxes = wide(boxes)
    return torch.cat([boxes[:, :2].clamp(-FARTHEST, FARTHEST), boxes[:, 2:4].clamp_min(LEAST_SIDE), boxes[:, 4:]], 1)


def known_ious(matrix: Tensor) -> Tensor:
    """IoUs as the rule knows them: float32, without rounding's remains."""
    matrix = matrix.float()
    return matrix.where(matrix >= LEAST_IOU, 0.0)


def inside(points: Tensor, objects: Tensor) -> Tensor:
    """Whether points `[P, 2]` lie within objects `[G, 5]`, by the margin at each side: `[P, G]`."""
    points, objects = wide(points), wide(objects)
    cos, sin = torch.cos(objects[:, 4]), torch.sin(objects[:, 4])
    dx, dy = (points[:, None] - objects[None, :, :2]).unbind(-1)
    along, across = (dx * cos + dy * sin).abs(), (dy * cos - dx * sin).abs()
    return (along <= objects[:, 2] / 2 - INNER_MARGIN) & (across <= objects[:, 3] / 2 - INNER_MARGIN)


def pair_costs(
    points: Tensor, strides: Tensor, classes: ClassCosts, logits: Tensor, objects: Tensor, labels: Tensor, iou: Tensor
) -> Tensor:
    """Cost `[P, G]` (float32) of points `[P, 2]` with strides `[P]` and logits `[P, C]` with objects `[G, 5]` of labels `[G]`.

    `iou [P, G]` is that of the predicted boxes. What is no number costs infinity, as does what float32 cannot hold.
    """
    quality, own = wide(iou), wide(logits)[:, labels]
    softplus, score = classes.softplus[:, labels], classes.score[:, labels]
    classification = classes.nothing[:, None] - softplus * score.square() + (softplus - own * quality) * (quality - score).square()
    shift = wide(points)[:, None] - wide(objects)[None, :, :2]
    distance = shift.square().sum(-1).sqrt() / wide(strides)[:, None]
    cost = classification - IOU_WEIGHT * torch.log(quality + IOU_EPSILON) + torch.pow(10.0, distance - CENTRE_RADIUS)
    return torch.nan_to_num(cost.float(), nan=torch.inf, posinf=torch.inf)
