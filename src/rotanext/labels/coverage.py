"""Which objects the anchors of a recipe reach, and what to change where they don't."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rotanext.boxes import corners_to_boxes
from rotanext.config import Config
from rotanext.heads.anchors import STRIDES, AnchorRule
from rotanext.labels.dataset import LabelSet
from rotanext.ops import rotated_iou_pairs
from rotanext.polygons import crosses, signed_area

_NEAR = 3  # positions of a level looked at either side of an object's centre
_AT_ONCE = 256
_MOST = 20_000


@dataclass(frozen=True, eq=False)
class Coverage:
    """Boxes `[N, 5]` float32 as training sees them (resized by `scales`), labels, and the IoU `[N]` of each one's best anchor."""

    boxes: Tensor
    names: list[str]
    iou: Tensor
    scales: Tensor
    positive_iou: float

    @property
    def missed(self) -> Tensor:
        """`[N]` whether no anchor reaches positive_iou: such an object learns from its single best anchor alone."""
        return self.iou < self.positive_iou


def best_iou(boxes: Tensor, rule: AnchorRule) -> Tensor:
    """IoU `[N]` of each box `[N, 5]` with the best anchor of a grid without end, of all levels."""
    result = torch.zeros(len(boxes))
    steps = torch.arange(-_NEAR, _NEAR + 1)
    offsets = torch.cartesian_prod(steps, steps).float()  # [49, 2]
    for start in range(0, len(boxes), _AT_ONCE):
        part = boxes[start : start + _AT_ONCE].float()
        for stride in STRIDES:
            shapes = rule.level(1, 1, stride)  # at the origin
            at = ((part[:, None, :2] / stride).round() + offsets) * stride  # [n, 49, 2]
            at = at.clamp_min(0)
            anchors = shapes.expand(*at.shape[:2], -1, -1).clone()
            anchors[..., :2] += at[:, :, None]
            anchors = anchors.reshape(len(part), -1, 5)
            wide = part[:, None].expand_as(anchors)
            iou = rotated_iou_pairs(wide.reshape(-1, 5), anchors.reshape(-1, 5)).reshape(len(part), -1)
            result[start : start + len(part)] = torch.maximum(result[start : start + len(part)], iou.amax(1))
    return result


def cover(data: LabelSet, config: Config, resized: bool = True) -> Coverage:
    """The coverage of a set's sound objects (at most 20,000, evenly drawn) by a recipe's anchors, at its image size."""
    corners, names, scales = [np.zeros((0, 4, 2))], list[str](), list[float]()
    for image in data.images:
        sound = ~crosses(image.objects.corners) & (np.abs(signed_area(image.objects.corners)) > 1e-3)
        longest = max(image.width, image.height)
        scale = config.data.image_size / longest if resized and config.data.image_size and longest else 1.0
        held = image.objects.take(sound)
        corners.append(held.corners * scale)
        names += held.names
        scales += [scale] * len(held)
    joined = np.concatenate(corners)
    chosen = np.linspace(0, len(joined) - 1, min(len(joined), _MOST)).astype(int) if len(joined) else np.zeros(0, int)
    boxes = corners_to_boxes(torch.from_numpy(joined[chosen])).float()
    iou = best_iou(boxes, config.model.anchor_rule)
    scale_of = torch.tensor([scales[i] for i in chosen], dtype=torch.float32)
    return Coverage(boxes, [names[i] for i in chosen], iou, scale_of, config.assign.positive_iou)


def needs_cutting(data: LabelSet, config: Config, coverage: Coverage) -> bool:
    """Whether images are much larger than what the recipe works on, and a tenth of the objects too small once shrunk."""
    side = config.data.image_size or config.predict.tile
    longest = max((max(p.width, p.height) for p in data.images), default=0)
    if longest <= 1.5 * side or not len(coverage.boxes):
        return False
    return not config.data.image_size or float(coverage.boxes[:, 3].quantile(0.1)) < 12


def advise(data: LabelSet, config: Config, coverage: Coverage, cut: bool) -> list[str]:
    """Sentences on tile size, image size and anchors; cut: whether the coverage is that of tiles, see `needs_cutting`."""
    lines = []
    boxes, scales = coverage.boxes, coverage.scales
    if not len(boxes):
        return ["There are no objects to judge anchors and tiles by."]
    longest = max((max(p.width, p.height) for p in data.images), default=0)
    long_edge, short_edge = boxes[:, 2] / scales, boxes[:, 3] / scales
    if cut:
        side = config.data.image_size or config.predict.tile
        reach = float(long_edge.quantile(0.99))
        tile = side if reach < 0.7 * side else 1 << int(np.ceil(np.log2(reach * 1.5)))
        overlap = int(min(tile // 2, max(tile // 5, -(-reach // 50) * 50)))
        lines.append(
            f"The largest image is {longest} pixels long, the recipe works on {side}, and shrunk objects would be too small. "
            f"Cut the data first: rotanext split DATA TILES --size {tile} --overlap {overlap} "
            f"(99 % of the objects are at most {reach:.0f} "
            "pixels long). The figures on anchors are those of such tiles."
        )
    elif float((short_edge < 6).float().mean()) > 0.2:
        lines.append("More than a fifth of the objects are less than 6 pixels wide: enlarge (rotanext split --rates 2.0).")
    missed = coverage.missed
    share = float(missed.float().mean())
    if share > 0.02:
        lines += _better_anchors(config, coverage, share)
    else:
        lines.append(
            f"The anchors fit: {100 * (1 - share):.1f} % of the objects have one of IoU {coverage.positive_iou:g} or more."
        )
    return lines


def _better_anchors(config: Config, coverage: Coverage, share: float) -> list[str]:
    """The best of a few changes of the anchors, measured on at most 1,500 objects."""
    rule, boxes = config.model.anchor_rule, coverage.boxes
    some = boxes[torch.linspace(0, len(boxes) - 1, min(len(boxes), 1500)).long()]
    ratios = [rule.ratios, (1.0, 0.5, 2.0, 0.25, 4.0), (1.0, 0.5, 2.0, 0.2, 5.0, 0.1, 10.0)]
    found = []
    for scale in (rule.scale, 4.0, 2.0, 1.0):
        for choice in ratios:
            iou = best_iou(some, AnchorRule(rule.convention, scale, rule.octaves, choice))
            found.append((float((iou < coverage.positive_iou).float().mean()), len(choice), scale != rule.scale, scale, choice))
    best = min(found, key=lambda row: (round(row[0], 2), row[1], row[2]))
    lines = [
        f"{100 * share:.1f} % of the objects have no anchor of IoU {coverage.positive_iou:g}: each learns from its single best one."
    ]
    if best[0] < share - 0.02:
        changed = [f"model.anchor_scale={best[3]:g}"] * (best[3] != rule.scale)
        changed += [f"'model.anchor_ratios={json_like(best[4])}'"] * (tuple(best[4]) != tuple(rule.ratios))
        lines.append(
            f"With {' '.join(changed)} behind rotanext train {config.name} it would be {100 * best[0]:.1f} %. Worth it where such "
            "objects are missed; a detector keeps the anchors it was trained with, so from the start."
        )
    else:
        lines.append(
            "Upright anchors fit long turned objects badly by nature; published systems, too, learn them from the single best one."
        )
    return lines


def json_like(values: tuple[float, ...]) -> str:
    """Numbers as a list that the command line takes."""
    return f"[{','.join(f'{value:g}' if value != int(value) else f'{value:.1f}' for value in values)}]"
