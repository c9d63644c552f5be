"""Our own head: a point a position, scores that tell the box's quality, boxes without any jump in their numbers.

Task-aligned assignment (Feng et al., TOOD, arXiv:2108.07755) for rotated boxes, soft targets, the exact rotated IoU as the loss,
and the direction learnt as a vector of the doubled angle, which, unlike an angle, has no place where it jumps. What each part
brings was measured: docs/log.md.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rotanext.boxes import regularize
from rotanext.heads import points as grids
from rotanext.heads.contract import Candidates, Losses, Raw, Reach, Targets, Term, joined, nothing_to_learn, rows
from rotanext.heads.losses import rotated_iou_loss
from rotanext.heads.task_aligned import Assigned, Grid, assign
from rotanext.layers import conv_norm
from rotanext.section import NotNegative, Positive, Section

PRIOR = 0.01  # score of every class at the start
OFFSET = 0.5  # of the points: the middle of their cell
NUMBERS = (
    6  # of a box: dx, dy in strides; logarithms of the long and the short side in START strides; cos and sin of twice the angle
)
START = 3.0  # strides: side of every box at the start
LIMIT = 4.0  # of those logarithms
_TINY = 1e-9  # the angle of no vector has no gradient
_ROOM = 0.005  # about the limit: files in half precision round sizes
_SMALLEST = 1e-3  # pixels: side of a label, in logarithms
_OFFSET_BETA, _ANGLE_BETA = 0.1, 0.2  # where the smooth L1 losses become linear


class AlignedConfig(Section):
    """Our head: a point a position, task-aligned assignment, scores that are the box's quality, boxes trained by their IoU."""

    kind: Literal["aligned"]  # ours
    stacked_convs: Annotated[int, Field(ge=0, le=32, strict=True)]  # convolutions before each output
    candidates: Annotated[int, Field(ge=1, le=1000, strict=True)]  # points that learn an object, at most
    radius: NotNegative  # strides round its centre in which points may learn an object, besides those inside it
    score_power: NotNegative  # of the score, in how well a point's prediction is aligned with an object
    iou_power: Positive  # of the IoU, likewise
    box_loss_weight: Positive  # of 1 - IoU, beside a classification loss of weight 1
    offset_loss_weight: NotNegative  # of the smooth L1 loss of centres, in strides, and logarithms of sides
    angle_loss_weight: NotNegative  # of the smooth L1 loss of the doubled angle's vector
    priors: ClassVar[int] = 1

    def classes_of(self, weights: Mapping[str, Tensor]) -> int:
        """How many classes the network with these weights (under our names) tells apart."""
        return len(weights["head.cls_out.0.bias"]) if "head.cls_out.0.bias" in weights else 0

    def build(self, channels: int, strides: tuple[int, ...], num_classes: int) -> "AlignedHead":
        """The head for maps of so many channels at these strides."""
        return AlignedHead(self, channels, strides, num_classes)

    def reach(self, boxes: Tensor, strides: tuple[int, ...], recipe: str) -> Reach:
        """Which boxes `[N, 5]` cover a cell of the finest level: smaller ones share their point with neighbours."""
        return grids.reach(boxes, strides[0])

    def at_limit(self, boxes: Tensor, chosen: Candidates, strides: tuple[int, ...]) -> Tensor:
        """Which boxes `[N, 5]` have a side at the largest or smallest size of their level."""
        start = START * torch.tensor(strides, device=boxes.device)[chosen.level]
        return ((boxes[:, 2:4] / start[:, None]).log().abs() > LIMIT - _ROOM).any(1)


class AlignedHead(nn.Module):
    """Two stacks of 3x3 convolutions with batch norms, each level's own; then 1x1 convolutions for logits and boxes."""

    priors = 1
    centres_inside = False

    def __init__(self, config: AlignedConfig, channels: int, strides: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.strides, self.num_classes = config, strides, num_classes
        depth = range(config.stacked_convs)
        self.cls_convs = nn.ModuleList(nn.Sequential(*(conv_norm(channels, channels, 3) for _ in depth)) for _ in strides)
        self.reg_convs = nn.ModuleList(nn.Sequential(*(conv_norm(channels, channels, 3) for _ in depth)) for _ in strides)
        self.cls_out = nn.ModuleList(_output(channels, num_classes, -math.log((1 - PRIOR) / PRIOR)) for _ in strides)
        self.reg_out = nn.ModuleList(_output(channels, NUMBERS, 0.0) for _ in strides)

    def forward(self, pyramid: list[Tensor]) -> Raw:
        """Per level logits `[B, classes, h, w]` and the numbers of a box `[B, 6, h, w]`."""
        logits = [out(convs(level)) for level, convs, out in zip(pyramid, self.cls_convs, self.cls_out, strict=True)]
        geometry = [out(convs(level)) for level, convs, out in zip(pyramid, self.reg_convs, self.reg_out, strict=True)]
        return Raw(logits, geometry)

    def decode(self, raw: Raw, chosen: Candidates | None = None) -> Tensor:
        """Boxes `[N, 5]` of chosen points or `[B, P, 5]` of all, see `heads.contract.Head.decode`."""
        points, strides = self._points(raw)
        numbers = torch.cat(rows(raw.geometry, NUMBERS), 1)
        if chosen is not None:
            points, strides, numbers = points[chosen.prior], strides[chosen.prior], numbers[chosen.image, chosen.prior]
        return regularize(to_boxes(numbers.float(), points, strides))

    def _points(self, raw: Raw) -> tuple[Tensor, Tensor]:
        return grids.grid(_sizes(raw), self.strides, OFFSET, raw.geometry[0].device)

    def assign(self, raw: Raw, targets: Targets) -> Assigned:
        """What each point learns, by what it predicts."""
        config = self.config
        logits, numbers = joined(raw, self.num_classes, NUMBERS)
        image = torch.repeat_interleave(torch.tensor([len(b) for b in targets.boxes], device=logits.device))
        return assign(
            Grid(_sizes(raw), self.strides, OFFSET),
            to_boxes(numbers.detach(), *self._points(raw)),
            logits.detach(),
            torch.cat(list(targets.boxes)),
            torch.cat(list(targets.labels)),
            image,
            candidates=config.candidates,
            radius=config.radius,
            score_power=config.score_power,
            iou_power=config.iou_power,
        )

    def losses(self, raw: Raw, targets: Targets) -> Losses:
        """The terms `cls`, `box`, `offset` and `angle`, each by the sum of the targets; see `heads.contract.Head.losses`."""
        config = self.config
        factors = {
            "cls": 1.0,
            "box": config.box_loss_weight,
            "offset": config.offset_loss_weight,
            "angle": config.angle_loss_weight,
        }
        if not targets.boxes:
            zero, none = nothing_to_learn(raw), raw.logits[0].new_zeros((), dtype=torch.float32)
            return Losses({name: Term(zero, none, factor) for name, factor in factors.items()}, none)
        assigned = self.assign(raw, targets)
        sums, weight = self.assigned_losses(raw, assigned, targets), assigned.target.sum()
        terms = {name: Term(sums[name], weight, factor) for name, factor in factors.items()}
        return Losses(terms, weight.new_tensor(len(assigned.point)))

    def assigned_losses(self, raw: Raw, assigned: Assigned, targets: Targets) -> dict[str, Tensor]:
        """Sums of the losses over a batch by their names, in float32.

        A batch without objects gives box losses of zero that still depend on the outputs: each parameter has a (zero) gradient.
        """
        logits, numbers = joined(raw, self.num_classes, NUMBERS)
        boxes, labels = torch.cat(list(targets.boxes))[assigned.object], torch.cat(list(targets.labels))[assigned.object]
        scores = torch.zeros_like(logits)
        scores[assigned.image, assigned.point, labels] = assigned.target
        points, strides = (values[assigned.point] for values in self._points(raw))
        found, wanted = numbers[assigned.image, assigned.point], to_numbers(boxes, points, strides)
        losses = {
            "box": rotated_iou_loss(to_boxes(found, points, strides), boxes),
            "offset": F.smooth_l1_loss(found[:, :4], wanted[:, :4], beta=_OFFSET_BETA, reduction="none").sum(-1),
            "angle": F.smooth_l1_loss(found[:, 4:], wanted[:, 4:], beta=_ANGLE_BETA, reduction="none").sum(-1) * length(boxes),
        }
        sums = {name: (loss * assigned.target).sum() for name, loss in losses.items()}
        return sums | {"cls": F.binary_cross_entropy_with_logits(logits, scores, reduction="sum")}


def to_boxes(numbers: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Boxes `[..., 5]` of the outputs `[..., 6]` at points `[..., 2]` with strides `[...]`; either side may be the longer one."""
    shift, sides, vector = numbers.split(2, -1)
    step = strides[..., None]
    angle = torch.atan2(vector[..., 1], vector[..., 0] + _TINY) / 2
    return torch.cat([points + shift * step, sides.clamp(-LIMIT, LIMIT).exp() * (START * step), angle[..., None]], -1)


def to_numbers(boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """The outputs `[..., 6]` that make `boxes [..., 5]` of points: the inverse of `to_boxes`."""
    step = strides[..., None]
    sides = (boxes[..., 2:4].clamp_min(_SMALLEST) / (START * step)).log()
    double = 2 * boxes[..., 4:]
    return torch.cat([(boxes[..., :2] - points) / step, sides, double.cos(), double.sin()], -1)


def length(boxes: Tensor) -> Tensor:
    """How much the angle of `boxes [N, 5]` matters: 1 - (h / w)^2, from 0 of a square to 1.

    A square looks the same after a quarter turn; whatever angle is predicted of it, half of them are wrong by the label alone.
    """
    return 1 - (boxes[:, 3] / boxes[:, 2].clamp_min(_SMALLEST)).square().clamp(0, 1)


def _output(channels: int, numbers: int, bias: float) -> nn.Conv2d:
    """A 1x1 convolution with small random weights and equal biases."""
    conv = nn.Conv2d(channels, numbers, 1)
    if not conv.weight.is_meta:  # where normal numbers would import torch's compiler: seconds, 200 MB
        nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


def _sizes(raw: Raw) -> list[tuple[int, int]]:
    return [(level.shape[2], level.shape[3]) for level in raw.geometry]
