"""The training loss of a batch: assignment of anchors, focal loss, box loss."""

from typing import NamedTuple

import torch
from torch import Tensor

from rotanext.heads.anchors import AnchorRule
from rotanext.heads.coding import decode
from rotanext.heads.losses import REGRESSION_LOSSES, focal_loss
from rotanext.models.network import flatten_levels
from rotanext.ops import assign_anchors


class Targets(NamedTuple):
    """What the anchors of a batch should say."""

    assigned: Tensor  # [B, A] int64: 0 negative, -1 ignored, i the i-th object of that image
    boxes: Tensor  # [P, 5] of the positive anchors, in order
    labels: Tensor  # [P]
    anchors: Tensor  # [A, 5]


class Losses(NamedTuple):
    """Both losses of a batch, summed over its anchors; divide by the number of positives (at least 1) of all processes."""

    classification: Tensor
    regression: Tensor
    positives: Tensor


def make_targets(
    sizes: list[tuple[int, int]],
    boxes: list[Tensor],
    labels: list[Tensor],
    anchors: AnchorRule,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
) -> Targets:
    """Targets of a batch from each image's `boxes [G, 5]` and `labels [G]`, for level maps of the given (height, width).

    The two IoUs are those of `ops.assign_anchors`.
    """
    device = boxes[0].device
    grid, layout = torch.cat(anchors.grid(sizes, device)), anchors.layout(sizes)
    assigned = torch.stack([assign_anchors(grid, b, positive_iou, negative_iou, layout) for b in boxes])
    positive = [a > 0 for a in assigned]
    matched = [b[a[p] - 1] for b, a, p in zip(boxes, assigned, positive, strict=True)]
    classes = [c[a[p] - 1] for c, a, p in zip(labels, assigned, positive, strict=True)]
    return Targets(assigned, torch.cat(matched), torch.cat(classes), grid)


def batch_losses(logits: list[Tensor], deltas: list[Tensor], targets: Targets, num_classes: int, regression: str) -> Losses:
    """Sums of the focal and the box loss over a batch, in float32.

    A batch without objects gives a box loss of zero that still depends on the deltas: each parameter has a (zero) gradient.
    """
    flat_logits, flat_deltas = flatten_levels(logits, deltas, num_classes)
    all_logits, all_deltas = torch.cat(flat_logits, 1).float(), torch.cat(flat_deltas, 1).float()
    positive = targets.assigned > 0
    wanted = torch.zeros_like(all_logits)
    image, anchor = positive.nonzero(as_tuple=True)
    wanted[image, anchor, targets.labels] = 1
    used = (targets.assigned >= 0).unsqueeze(-1)
    classification = (focal_loss(all_logits, wanted) * used).sum()
    predicted = decode(targets.anchors[anchor], all_deltas[image, anchor])
    box = REGRESSION_LOSSES[regression](predicted, targets.boxes).sum()
    return Losses(classification, box, positive.sum())
