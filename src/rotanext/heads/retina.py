"""Rotated RetinaNet: anchors, focal loss, a loss on boxes as Gaussians (Lin et al., arXiv:1708.02002; Yang et al., 2106.01883).

The head of the published systems, number for number; see docs/from-mmrotate.md.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from rotanext.heads.anchors import AnchorRule, Convention
from rotanext.heads.coding import at_clamp, decode
from rotanext.heads.contract import Candidates, Losses, Raw, Reach, Targets, Term, joined, nothing_to_learn, rows
from rotanext.heads.losses import REGRESSION_LOSSES, focal_loss
from rotanext.heads.reach import reach
from rotanext.ops import assign_anchors
from rotanext.section import Fraction, Positive, Section

PRIOR = 0.01  # score of every class at the start
NUMBERS = 5  # of a box: dx, dy, dw, dh, da


class RetinaConfig(Section):
    """A head with anchors: sigmoid scores by the focal loss, boxes as offsets from the anchors."""

    kind: Literal["retina"]  # rotated RetinaNet
    stacked_convs: Annotated[int, Field(ge=1, le=32, strict=True)]  # convolutions before each output
    anchors: Convention  # v0: horizontal (MMRotate 0.x); v1: brought to le90 (1.x)
    anchor_scale: Annotated[float, Field(ge=0.1, le=100, strict=True)]  # side of the smallest square anchor, in strides
    anchor_octaves: Annotated[int, Field(ge=1, le=8, strict=True)]  # sizes between one level and the next
    anchor_ratios: Annotated[  # height / width
        tuple[Annotated[float, Field(ge=0.01, le=100, strict=True)], ...], Field(min_length=1, max_length=16)
    ]
    positive_iou: Fraction  # an anchor learns an object from this IoU on
    negative_iou: Fraction  # below it an anchor learns background; in between it learns nothing
    box_loss: Literal["kld-stable", "kld", "gwd"]  # see heads/losses.py
    box_loss_weight: Positive  # beside a classification loss of weight 1

    @model_validator(mode="after")
    def _consistent(self) -> "RetinaConfig":
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou {self.negative_iou} is larger than positive_iou {self.positive_iou}")
        return self

    @property
    def priors(self) -> int:
        """Anchors of every position."""
        return self.anchor_octaves * len(self.anchor_ratios)

    def classes_of(self, weights: Mapping[str, Tensor]) -> int:
        """How many classes the network with these weights (under our names) tells apart."""
        return weights["head.cls_out.weight"].shape[0] // self.priors if "head.cls_out.weight" in weights else 0

    def anchor_rule(self, strides: tuple[int, ...]) -> AnchorRule:
        """The anchors these values describe, on levels of those strides."""
        return AnchorRule(self.anchors, self.anchor_scale, self.anchor_octaves, self.anchor_ratios, strides)

    def at_limit(self, boxes: Tensor, chosen: Candidates, strides: tuple[int, ...]) -> Tensor:
        """Which decoded boxes `[N, 5]` have a side at the clamp of `coding.decode`, `[N]`."""
        rule = self.anchor_rule(strides)
        edges = torch.stack([rule.base_sizes(stride) for stride in strides]).to(boxes.device)
        return at_clamp(boxes, edges[chosen.level, chosen.prior % rule.per_position])  # levels hold whole positions

    def build(self, channels: int, strides: tuple[int, ...], num_classes: int) -> "RetinaHead":
        """The head for maps of so many channels at these strides."""
        return RetinaHead(self, channels, strides, num_classes)

    def reach(self, boxes: Tensor, strides: tuple[int, ...], recipe: str) -> Reach:
        """Which boxes `[N, 5]` have an anchor of `positive_iou`; the others learn from their single best one."""
        return reach(boxes, self.anchor_rule(strides), self.positive_iou, recipe)


class Assigned(NamedTuple):
    """What the anchors of a batch should say."""

    objects: Tensor  # [B, A] int64: 0 negative, -1 ignored, i the i-th object of that image
    boxes: Tensor  # [P, 5] of the positive anchors, in order
    labels: Tensor  # [P]
    anchors: Tensor  # [A, 5]


class RetinaHead(nn.Module):
    """Two stacks of 3x3 convolutions shared over the levels, then logits and deltas of a position's anchors."""

    centres_inside = True

    def __init__(self, config: RetinaConfig, channels: int, strides: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.strides, self.num_classes = config, strides, num_classes
        self.anchors, self.priors = config.anchor_rule(strides), config.priors
        depth = config.stacked_convs
        self.cls_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.reg_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.cls_out = nn.Conv2d(channels, self.priors * num_classes, 3, padding=1)
        self.reg_out = nn.Conv2d(channels, self.priors * NUMBERS, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if not module.weight.is_meta:  # where normal numbers would import torch's compiler: seconds, 200 MB
                    nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.cls_out.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, pyramid: list[Tensor]) -> Raw:
        """Per level logits `[B, anchors * classes, h, w]` and deltas `[B, anchors * 5, h, w]`."""
        logits, deltas = [], []
        for level in pyramid:
            cls, reg = level, level
            for conv in self.cls_convs:
                cls = F.relu(conv(cls), inplace=True)
            for conv in self.reg_convs:
                reg = F.relu(conv(reg), inplace=True)
            logits.append(self.cls_out(cls))
            deltas.append(self.reg_out(reg))
        return Raw(logits, deltas)

    def decode(self, raw: Raw, chosen: Candidates | None = None) -> Tensor:
        """Boxes `[N, 5]` of chosen anchors or `[B, A, 5]` of all, see `heads.contract.Head.decode`."""
        deltas = rows(raw.geometry, NUMBERS)
        if chosen is None:
            sizes = [(level.shape[2], level.shape[3]) for level in raw.geometry]
            anchors = torch.cat(self.anchors.grid(sizes, raw.geometry[0].device))
            return decode(anchors, torch.cat(deltas, 1).float())
        first = torch.tensor([0, *(level.shape[1] for level in deltas[:-1])], device=chosen.prior.device).cumsum(0)
        widths = [level.shape[3] for level in raw.geometry]
        anchors = self.anchors.of_levels(chosen.level, chosen.prior - first[chosen.level], widths)
        return decode(anchors, torch.cat(deltas, 1)[chosen.image, chosen.prior].float())

    def assign(self, sizes: list[tuple[int, int]], targets: Targets) -> Assigned:
        """What each anchor learns, for level maps of the given (height, width)."""
        boxes, labels = targets
        grid, layout = torch.cat(self.anchors.grid(sizes, boxes[0].device)), self.anchors.layout(sizes)
        limits = self.config.positive_iou, self.config.negative_iou
        index = torch.stack([assign_anchors(grid, b, *limits, layout) for b in boxes])
        positive = [a > 0 for a in index]
        matched = [b[a[p] - 1] for b, a, p in zip(boxes, index, positive, strict=True)]
        classes = [c[a[p] - 1] for c, a, p in zip(labels, index, positive, strict=True)]
        return Assigned(index, torch.cat(matched), torch.cat(classes), grid)

    def losses(self, raw: Raw, targets: Targets) -> Losses:
        """The focal loss `cls` and the box loss `box`, both per positive anchor; see `heads.contract.Head.losses`."""
        factor = self.config.box_loss_weight
        if not targets.boxes:
            zero, none = nothing_to_learn(raw), raw.logits[0].new_zeros((), dtype=torch.float32)
            return Losses({"cls": Term(zero, none), "box": Term(zero, none, factor)}, none)
        assigned = self.assign([(level.shape[2], level.shape[3]) for level in raw.logits], targets)
        classification, box, positives = assigned_losses(raw, assigned, self.num_classes, self.config.box_loss)
        return Losses({"cls": Term(classification, positives), "box": Term(box, positives, factor)}, positives)


def assigned_losses(raw: Raw, assigned: Assigned, num_classes: int, box_loss: str) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the focal and the box loss over a batch, and the number of positive anchors, in float32.

    A batch without objects gives a box loss of zero that still depends on the deltas: each parameter has a (zero) gradient.
    """
    logits, deltas = joined(raw, num_classes, NUMBERS)
    positive = assigned.objects > 0
    wanted = torch.zeros_like(logits)
    image, anchor = positive.nonzero(as_tuple=True)
    wanted[image, anchor, assigned.labels] = 1
    used = (assigned.objects >= 0).unsqueeze(-1)
    classification = (focal_loss(logits, wanted) * used).sum()
    predicted = decode(assigned.anchors[anchor], deltas[image, anchor])
    return classification, REGRESSION_LOSSES[box_loss](predicted, assigned.boxes).sum(), positive.sum().float()
