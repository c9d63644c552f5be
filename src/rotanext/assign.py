"""Which object each anchor learns: the max-IoU assignment of RetinaNet on rotated IoU, without an anchors x objects matrix."""

from itertools import pairwise

import torch
from torch import Tensor

from rotanext.ops import rotated_iou_pairs

# IoU cannot exceed the ratio of the two areas. Pairs are looked at in bands of that ratio, from the best downwards; an object whose
# best IoU already exceeds what a band can offer is done. A first band before these holds every pair that can reach negative_iou.
_BANDS = (0.2, 0.1, 0.05, 0.0)
_CHECKS_AT_ONCE = 1 << 22


def _pairs_in_band(anchors: Tensor, boxes: Tensor, objects: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Pairs (anchor, object) of the given objects whose circles meet and whose area ratio lies in [low, high)."""
    radius_a, area_a = anchors[:, 2:4].norm(dim=-1) / 2, anchors[:, 2] * anchors[:, 3]
    found_anchor, found_object = [], []
    for part in objects.split(max(1, _CHECKS_AT_ONCE // max(1, len(anchors)))):
        box = boxes[part]
        area = (box[:, 2] * box[:, 3])[:, None]
        near = (box[:, None, 0] - anchors[:, 0]).square_() + (box[:, None, 1] - anchors[:, 1]).square_()
        # Half a percent of slack: rejection is in float32, the IoU behind it is exact.
        wanted = near <= (box[:, 2:4].norm(dim=-1)[:, None] / 2 + radius_a).square_() * 1.005
        ratio = torch.minimum(area, area_a) / torch.maximum(area, area_a)
        wanted &= (ratio >= low * 0.995) & ((ratio < high * 0.995) | (high >= 1))
        which, anchor = wanted.nonzero(as_tuple=True)
        found_anchor.append(anchor)
        found_object.append(part[which])
    return torch.cat(found_anchor), torch.cat(found_object)


def assign(anchors: Tensor, boxes: Tensor, positive_iou: float = 0.5, negative_iou: float = 0.4) -> Tensor:
    """Assignment `[A]` (int64) of `anchors [A, 5]` to `boxes [G, 5]`: 0 negative, -1 ignored, i the i-th object (from 1).

    An anchor whose best IoU reaches positive_iou is positive (ties between objects: the earlier), below negative_iou negative,
    between ignored. Every object's best anchors (all ties, in float32) are positive as well, however low their IoU; where several
    objects claim one, the later wins. An object without area, or that overlaps no anchor, gets none. The same as the rule applied
    to the whole matrix of IoUs.
    """
    result = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    if len(boxes) == 0 or len(anchors) == 0:
        return result
    best_of_object = boxes.new_zeros(len(boxes))
    valid = torch.isfinite(boxes).all(-1) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    pairs_a, pairs_g, pairs_iou = [], [], []
    for high, low in pairwise((1.0, negative_iou, *(band for band in _BANDS if band < negative_iou))):
        open_objects = (valid & (best_of_object <= high)).nonzero()[:, 0]
        if len(open_objects) == 0:
            break
        a, g = _pairs_in_band(anchors, boxes, open_objects, low, high)
        iou = rotated_iou_pairs(anchors[a], boxes[g])
        best_of_object.scatter_reduce_(0, g, iou, "amax")
        pairs_a.append(a)
        pairs_g.append(g)
        pairs_iou.append(iou)
    if not pairs_a:
        return result
    a, g, iou = torch.cat(pairs_a), torch.cat(pairs_g), torch.cat(pairs_iou)

    best_of_anchor = boxes.new_zeros(len(anchors)).scatter_reduce_(0, a, iou, "amax")
    first = iou == best_of_anchor[a]
    owner = torch.full_like(result, len(boxes)).scatter_reduce_(0, a[first], g[first], "amin")
    result[best_of_anchor >= negative_iou] = -1
    positive = best_of_anchor >= positive_iou
    result[positive] = owner[positive] + 1

    low_quality = (iou == best_of_object[g]) & (iou > 0)
    claimed = torch.zeros_like(result).scatter_reduce_(0, a[low_quality], g[low_quality] + 1, "amax")
    return torch.where(claimed > 0, claimed, result)
