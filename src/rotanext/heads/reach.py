"""Which objects the anchors of a grid reach, and what to change where they do not."""

import torch
from torch import Tensor

from rotanext.heads.anchors import AnchorRule
from rotanext.heads.contract import Reach
from rotanext.ops import rotated_iou_pairs

_NEAR = 3  # positions of a level looked at either side of an object's centre
_AT_ONCE = 256
_ENOUGH = 1500  # objects, to compare anchors by
_WORTH_TELLING = 0.02  # share of the objects


def best_iou(boxes: Tensor, rule: AnchorRule) -> Tensor:
    """IoU `[N]` of each box `[N, 5]` with the best anchor of a grid without end, of all levels."""
    result = torch.zeros(len(boxes))
    steps = torch.arange(-_NEAR, _NEAR + 1)
    offsets = torch.cartesian_prod(steps, steps).float()  # [49, 2]
    for start in range(0, len(boxes), _AT_ONCE):
        part = boxes[start : start + _AT_ONCE].float()
        for stride in rule.strides:
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


def reach(boxes: Tensor, rule: AnchorRule, positive_iou: float, recipe: str) -> Reach:
    """Which boxes `[N, 5]` have an anchor of IoU `positive_iou` or more, and what to do about the others."""
    iou = best_iou(boxes, rule)
    share = float((iou < positive_iou).float().mean()) if len(boxes) else 0.0
    if share > _WORTH_TELLING:
        advice = _better_anchors(boxes, rule, positive_iou, recipe, share)
    else:
        advice = [f"The anchors fit: {100 * (1 - share):.1f} % of the objects have one of IoU {positive_iou:g} or more."]
    return Reach(iou, positive_iou, "IoU of the best anchor", advice)


def _better_anchors(boxes: Tensor, rule: AnchorRule, positive_iou: float, recipe: str, share: float) -> list[str]:
    """The best of a few changes of the anchors, measured on at most 1,500 objects."""
    some = boxes[torch.linspace(0, len(boxes) - 1, min(len(boxes), _ENOUGH)).long()]
    ratios = [rule.ratios, (1.0, 0.5, 2.0, 0.25, 4.0), (1.0, 0.5, 2.0, 0.2, 5.0, 0.1, 10.0)]
    found = []
    for scale in (rule.scale, 4.0, 2.0, 1.0):
        for choice in ratios:
            iou = best_iou(some, AnchorRule(rule.convention, scale, rule.octaves, choice, rule.strides))
            found.append((float((iou < positive_iou).float().mean()), len(choice), scale != rule.scale, scale, choice))
    best = min(found, key=lambda row: (round(row[0], 2), row[1], row[2]))
    lines = [f"{100 * share:.1f} % of the objects have no anchor of IoU {positive_iou:g}: each learns from its single best one."]
    if best[0] < share - _WORTH_TELLING:
        changed = [f"head.anchor_scale={best[3]:g}"] * (best[3] != rule.scale)
        changed += [f"'head.anchor_ratios={_as_list(best[4])}'"] * (tuple(best[4]) != tuple(rule.ratios))
        lines.append(
            f"With {' '.join(changed)} behind rotanext train {recipe} it would be {100 * best[0]:.1f} %. Worth it where such "
            "objects are missed; a detector keeps the anchors it was trained with, so from the start."
        )
    else:
        lines.append(
            "Upright anchors fit long rotated objects badly by nature; published systems, too, learn them from the single best one."
        )
    return lines


def _as_list(values: tuple[float, ...]) -> str:
    """Numbers as a list that the command line takes."""
    return f"[{','.join(f'{value:g}' if value != int(value) else f'{value:.1f}' for value in values)}]"
