"""RTMDet for rotated boxes: a point a position, soft targets, dynamic assignment (Lyu et al., arXiv:2212.07784).

The head of the published systems, number for number; see docs/from-mmrotate.md.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rotanext.boxes import regularize
from rotanext.heads import points as grids
from rotanext.heads.contract import Candidates, Losses, Raw, Reach, Targets, Term, joined, nothing_to_learn, rows
from rotanext.heads.losses import quality_focal_loss, rotated_iou_loss
from rotanext.heads.points import NUMBERS
from rotanext.layers import BatchNorm2d, folded
from rotanext.ops import assign_dynamic
from rotanext.section import Fraction, Positive, Section, Switch

PRIOR = 0.01  # score of every class at the start
_MOST_EXPONENT = 16.0  # a distance of nine million strides: only so that no box becomes infinite


class RTMDetConfig(Section):
    """A head with points: sigmoid scores that are the box's IoU, boxes as distances to their sides, trained by their IoU."""

    kind: Literal["rtmdet"]  # rotated RTMDet
    stacked_convs: Annotated[int, Field(ge=1, le=32, strict=True)]  # convolutions before each output
    exponential: Switch  # distances are the exponential of the outputs; otherwise the outputs themselves
    offset: Fraction  # where a point lies in its cell; 0.0: upper left corner, as published; 0.5: the middle
    box_loss_weight: Positive  # beside a classification loss of weight 1
    priors: ClassVar[int] = 1

    def classes_of(self, weights: Mapping[str, Tensor]) -> int:
        """How many classes the network with these weights (under our names) tells apart."""
        return len(weights["head.cls_out.0.bias"]) if "head.cls_out.0.bias" in weights else 0

    def at_limit(self, boxes: Tensor, chosen: Candidates, strides: tuple[int, ...]) -> Tensor:
        """Which boxes `[N, 5]` have a side of the largest exponential; without exponentials there is no limit."""
        if not self.exponential:
            return torch.zeros_like(boxes[:, 0], dtype=torch.bool)
        stride = torch.tensor(strides, device=boxes.device)[chosen.level]
        return boxes[:, 2] > 0.99 * math.exp(_MOST_EXPONENT) * stride  # the longer side

    def build(self, channels: int, strides: tuple[int, ...], num_classes: int) -> "RTMDetHead":
        """The head for maps of so many channels at these strides."""
        return RTMDetHead(self, channels, strides, num_classes)

    def reach(self, boxes: Tensor, strides: tuple[int, ...], recipe: str) -> Reach:
        """Which boxes `[N, 5]` hold a point of the finest level, wherever they lie: the others are learnt by luck."""
        return grids.reach(boxes, strides[0])


class Assigned(NamedTuple):
    """What the points of a batch should say."""

    objects: Tensor  # [B, P] int64: 0 background, i the i-th object of that image
    quality: Tensor  # [K] float32 of the positive points, in order: IoU of what they predict with their object
    boxes: Tensor  # [K, 5] of their objects
    labels: Tensor  # [K]


class RTMDetHead(nn.Module):
    """Two stacks of 3x3 convolutions shared over the levels, whose batch norms are not, then 1x1 convolutions of each level."""

    priors = 1
    centres_inside = False

    def __init__(self, config: RTMDetConfig, channels: int, strides: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.strides, self.num_classes = config, strides, num_classes
        depth = range(config.stacked_convs)

        def convs() -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in depth)

        def norms() -> nn.ModuleList:
            return nn.ModuleList(nn.ModuleList(BatchNorm2d(channels) for _ in depth) for _ in strides)

        def outputs(numbers: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(channels, numbers, 1) for _ in strides)

        self.cls_convs, self.reg_convs = convs(), convs()
        self.cls_norms, self.reg_norms = norms(), norms()
        self.cls_out, self.reg_out, self.ang_out = outputs(num_classes), outputs(NUMBERS - 1), outputs(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if not module.weight.is_meta:  # where normal numbers would import torch's compiler: seconds, 200 MB
                    nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for output in self.cls_out:
            nn.init.constant_(output.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, pyramid: list[Tensor]) -> Raw:
        """Per level logits `[B, classes, h, w]`, and four outputs for the distances and an angle in radians `[B, 5, h, w]`."""
        logits, geometry = [], []
        for number, level in enumerate(pyramid):
            cls = _stacked(level, self.cls_convs.children(), self.cls_norms[number].children())
            reg = _stacked(level, self.reg_convs.children(), self.reg_norms[number].children())
            logits.append(self.cls_out[number](cls))
            geometry.append(torch.cat([self.reg_out[number](reg), self.ang_out[number](reg)], 1))
        return Raw(logits, geometry)

    def fold_norms(self) -> None:
        """Put the batch norms into convolutions, which are each level's own then; for detection alone. See `models.fast`."""
        pairs: list[tuple[Any, Any]] = [(self.cls_convs, self.cls_norms), (self.reg_convs, self.reg_norms)]
        for convs, levels in pairs:
            for place, conv in enumerate(convs):
                for norms in levels:
                    norms[place] = folded(conv, norms[place])
                convs[place] = nn.Identity()

    def distances(self, numbers: Tensor, strides: Tensor) -> Tensor:
        """Distances in pixels and angle `[..., 5]` of outputs `[..., 5]` at points of strides `[...]`."""
        sides, angle = numbers.split([NUMBERS - 1, 1], -1)
        sides = sides.clamp_max(_MOST_EXPONENT).exp() if self.config.exponential else sides
        return torch.cat([sides * strides[..., None], angle], -1)

    def decode(self, raw: Raw, chosen: Candidates | None = None) -> Tensor:
        """Boxes `[N, 5]` of chosen points or `[B, P, 5]` of all, see `heads.contract.Head.decode`."""
        points, strides = self._grid(raw)
        numbers = torch.cat(rows(raw.geometry, NUMBERS), 1)
        if chosen is not None:
            points, strides, numbers = points[chosen.prior], strides[chosen.prior], numbers[chosen.image, chosen.prior]
        return regularize(grids.decode(points, self.distances(numbers.float(), strides)))

    def _grid(self, raw: Raw) -> tuple[Tensor, Tensor]:
        sizes = [(level.shape[2], level.shape[3]) for level in raw.geometry]
        return grids.grid(sizes, self.strides, self.config.offset, raw.geometry[0].device)

    @torch.no_grad()
    def assign(self, raw: Raw, targets: Targets) -> Assigned:
        """What each point learns, by what it predicts."""
        logits, numbers = joined(raw, self.num_classes, NUMBERS)
        points, strides = self._grid(raw)
        boxes = grids.decode(points, self.distances(numbers, strides))
        found = [
            assign_dynamic(points, strides, predicted, scores, objects, labels)
            for predicted, scores, objects, labels in zip(boxes, logits, *targets, strict=True)
        ]
        index, quality = (torch.stack(values) for values in zip(*found, strict=True))
        mine = [i[i > 0] - 1 for i in index]
        matched = [objects[i] for objects, i in zip(targets.boxes, mine, strict=True)]
        classes = [labels[i] for labels, i in zip(targets.labels, mine, strict=True)]
        return Assigned(index, quality[index > 0], torch.cat(matched), torch.cat(classes))

    def losses(self, raw: Raw, targets: Targets) -> Losses:
        """The quality focal loss `cls` and the IoU loss `box`, both by the sum of qualities; see `heads.contract.Head.losses`."""
        factor = self.config.box_loss_weight
        if not targets.boxes:
            zero, none = nothing_to_learn(raw), raw.logits[0].new_zeros((), dtype=torch.float32)
            return Losses({"cls": Term(zero, none), "box": Term(zero, none, factor)}, none)
        classification, box, weight, positives = self.assigned_losses(raw, self.assign(raw, targets))
        return Losses({"cls": Term(classification, weight), "box": Term(box, weight, factor)}, positives)

    def assigned_losses(self, raw: Raw, assigned: Assigned) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums of the quality focal and the IoU loss over a batch, sum of the qualities, and number of positive points, in float32.

        A batch without objects gives a box loss of zero that still depends on the outputs: each parameter has a (zero) gradient.
        """
        logits, numbers = joined(raw, self.num_classes, NUMBERS)
        points, strides = self._grid(raw)
        image, point = (assigned.objects > 0).nonzero(as_tuple=True)
        labels, quality = torch.zeros_like(assigned.objects), torch.zeros_like(logits[..., 0])
        labels[image, point], quality[image, point] = assigned.labels, assigned.quality
        classification = quality_focal_loss(logits.flatten(0, 1), labels.flatten(), quality.flatten()).sum()
        predicted = grids.decode(points[point], self.distances(numbers[image, point], strides[point]))
        box = (rotated_iou_loss(predicted, assigned.boxes) * assigned.quality).sum()
        return classification, box, assigned.quality.sum(), logits.new_tensor(len(point))


def _stacked(x: Tensor, convs: Iterator[nn.Module], norms: Iterator[nn.Module]) -> Tensor:
    """A level's map through one of the two stacks."""
    for conv, norm in zip(convs, norms, strict=True):
        x = F.silu(norm(conv(x)), inplace=not torch.is_grad_enabled())
    return x
