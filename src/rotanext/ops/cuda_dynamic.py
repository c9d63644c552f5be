"""Dynamic assignment in torch for CUDA devices: the dense rule, on as many objects at a time as a bound on pairs allows.

What outlasts a part of the objects is the few points that each of them takes, and the cheapest object so far of every point. Costs
are compared together with an index, as one whole number: so the lower index comes first of equal costs, which torch's own `topk`
would not promise. The host waits once, for the number of candidates.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rotanext.ops.dynamic import TOP_IOUS, clamped, class_costs, inside, known_ious, pair_costs

_PAIRS_AT_ONCE = 1 << 21  # a dozen numbers each are held at a time
_INDICES = 1 << 32
_INFINITE = 0x7F800000 * _INDICES  # the ranks of infinite costs begin here


def _ranks(cost: Tensor, index: Tensor) -> Tensor:
    """Whole numbers (int64) ordered as costs (float32) are and, of equal ones, as their indices are."""
    bits = (cost + 0.0).view(torch.int32).long()  # -0 becomes 0
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) * _INDICES + index


def _parts(points: int, objects: int) -> Iterator[slice]:
    step = max(1, _PAIRS_AT_ONCE // max(1, points))
    return (slice(start, min(start + step, objects)) for start in range(0, objects, step))


def assign_dynamic(
    iou: Callable[[Tensor, Tensor], Tensor],
    iou_pairs: Callable[[Tensor, Tensor], Tensor],
    points: Tensor,
    strides: Tensor,
    boxes: Tensor,
    logits: Tensor,
    objects: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `ops.assign_dynamic`; `iou` gives the matrix of IoUs, `iou_pairs` those of pairs, in their arguments' dtype."""
    index = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    quality = torch.zeros(len(points), dtype=torch.float32, device=points.device)
    within = index.bool()
    for part in _parts(len(points), len(objects)):
        within |= inside(points, objects[part]).any(1)
    candidates = within.nonzero().squeeze(1)
    if len(candidates) == 0:
        return index, quality
    points, strides, boxes, logits = points[candidates], strides[candidates], clamped(boxes[candidates]), logits[candidates]
    known, classes, rows = clamped(objects), class_costs(logits), torch.arange(len(points), device=points.device)
    columns = torch.arange(len(objects), device=points.device)

    cheapest = torch.full_like(rows, torch.iinfo(torch.int64).max)
    takers, owner = torch.zeros_like(rows), torch.zeros_like(rows)
    for part in _parts(len(points), len(objects)):
        matrix = known_ious(iou(boxes, known[part]))
        cost = pair_costs(points, strides, classes, logits, objects[part], labels[part], matrix)
        cheapest = torch.minimum(cheapest, _ranks(cost, columns[part]).amin(1))
        most = min(TOP_IOUS, len(points))
        wanted = matrix.topk(most, dim=0).values.double().sum(0).long().clamp_min(1)
        best = _ranks(cost, rows[:, None]).topk(most, dim=0, largest=False, sorted=True).values
        taken = (rows[:most, None] < wanted) & (best < _INFINITE)
        chosen = best % _INDICES
        takers.scatter_add_(0, chosen.flatten(), taken.long().flatten())
        # Sums stand for the one object of points that have one; the others' are not used.
        owner.scatter_add_(0, chosen.flatten(), torch.where(taken, columns[part], 0).flatten())

    owner = torch.where(takers > 1, cheapest % _INDICES, owner)
    positive = takers > 0
    own = known_ious(iou_pairs(boxes, known[torch.where(positive, owner, 0)]))
    index[candidates], quality[candidates] = torch.where(positive, owner + 1, 0), own.where(positive, 0.0)
    return index, quality
