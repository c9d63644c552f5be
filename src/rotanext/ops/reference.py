"""Rotated IoU, polygon IoU and rotated NMS in readable torch, for any device and dtype: the truth the fast versions are held to.

Intersection areas use one identity. Let `phi` project the plane onto a convex set Q (clamping, for an axis-aligned box). It is the
identity inside Q and flat outside, so the signed area enclosed by `phi(boundary of P)` is the area of P inside Q. Nothing is
sorted, no point is tested for being inside, so no rounding can flip a decision: nearly identical, touching and collinear shapes
need no special case, and the result is differentiable.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rotanext.ops.dynamic import TOP_IOUS, clamped, class_costs, inside, known_ious, pair_costs
from rotanext.ops.dynamic import wide as _wide

_PAIRS_AT_ONCE = 1 << 19
# Winograd's F(4x4, 3x3) at the points 0, 1, -1, 2, -2 and infinity: an output tile is A^T [(G g G^T) * (B^T d B)] A.
_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
    device="cpu",
)
ROUNDING = 1e-13  # shares of the smaller area below this are what rounding leaves of shapes that do not overlap


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area of intersection `[K]` of paired boxes `[K, 5]`, in the frame of b, where b is axis-aligned and centred."""
    cos_b, sin_b = torch.cos(b[:, 4]), torch.sin(b[:, 4])
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    cx, cy = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
    turn = a[:, 4] - b[:, 4]  # exactly 0 for equal angles, however large the boxes
    cos, sin = torch.cos(turn), torch.sin(turn)
    half_w, half_h = a[:, 2] / 2, a[:, 3] / 2
    wx, wy, hx, hy = half_w * cos, half_w * sin, -half_h * sin, half_h * cos
    x0 = torch.stack([cx - wx - hx, cx + wx - hx, cx + wx + hx, cx - wx + hx], -1)
    y0 = torch.stack([cy - wy - hy, cy + wy - hy, cy + wy + hy, cy - wy + hy], -1)
    dx, dy = x0.roll(-1, -1) - x0, y0.roll(-1, -1) - y0
    limit_x, limit_y = b[:, 2:3] / 2, b[:, 3:4] / 2

    def crossings(start: Tensor, step: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters in [0, 1] between which `start + t * step` lies within +-limit (any values where it never moves)."""
        safe = torch.where(step == 0, torch.ones_like(step), step)
        t0, t1 = (-limit - start) / safe, (limit - start) / safe
        return torch.minimum(t0, t1).clamp(0, 1), torch.maximum(t0, t1).clamp(0, 1)

    # Along each edge, integrate clamp(x) d clamp(y): y moves only between its two crossings, x bends at its own two.
    enter, leave = crossings(y0, dy, limit_y)
    bend0, bend1 = crossings(x0, dx, limit_x)
    t = torch.stack([enter, bend0.clamp(enter, leave), bend1.clamp(enter, leave), leave], -1)
    limit_x, limit_y = limit_x.unsqueeze(-1), limit_y.unsqueeze(-1)
    x = (x0.unsqueeze(-1) + t * dx.unsqueeze(-1)).clamp(-limit_x, limit_x)
    y = (y0.unsqueeze(-1) + t * dy.unsqueeze(-1)).clamp(-limit_y, limit_y)
    return ((x[..., 1:] + x[..., :-1]) * (y[..., 1:] - y[..., :-1])).sum((-1, -2)).div(2).clamp_min(0)


def check_mode(mode: str) -> None:
    """ValueError unless mode is "iou" or "iof"."""
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode is {mode!r}; expected 'iou' or 'iof'")


def _inside_of_edges(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What lies inside of box b of the edges of box a, for pairs `[K, 5]`; what lies on an edge of b counts half.

    Outward normals `[K, 4, 2]` in the frame of b, and lengths and first moments `[K, 4]` along the edge, measured from its middle
    against the clock. Edges: right, left, bottom, top in a's frame.
    """
    cos_b, sin_b = torch.cos(b[:, 4]), torch.sin(b[:, 4])
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    centre = torch.stack([dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b], -1)
    turn = a[:, 4] - b[:, 4]  # exactly 0 for equal angles
    cos, sin = torch.cos(turn), torch.sin(turn)
    normals = torch.stack([cos, sin, -cos, -sin, -sin, cos, sin, -cos], -1).view(-1, 4, 2)
    tangents = torch.stack([-normals[..., 1], normals[..., 0]], -1)
    half_w, half_h = a[:, 2] / 2, a[:, 3] / 2
    middles = centre[:, None] + normals * torch.stack([half_w, half_w, half_h, half_h], 1)[..., None]
    high = torch.stack([half_h, half_h, half_w, half_w], 1)
    low, share = -high, torch.ones_like(high)
    for axis in (0, 1):
        start, step, limit = middles[..., axis], tangents[..., axis], b[:, 2 + axis, None] / 2
        moves = step != 0
        safe = torch.where(moves, step, torch.ones_like(step))
        t0, t1 = (-limit - start) / safe, (limit - start) / safe
        low = torch.where(moves, torch.maximum(low, torch.minimum(t0, t1)), low)
        high = torch.where(moves, torch.minimum(high, torch.maximum(t0, t1)), high)
        beside = ((start.abs() < limit).to(a.dtype) + (start.abs() <= limit)) / 2
        share = torch.where(moves, share, share * beside)
    length = share * (high - low).clamp_min(0)
    return normals, length, length * (high + low) / 2


def _intersection_gradient(a: Tensor, b: Tensor) -> Tensor:
    """Derivatives `[K, 5]` of the intersection's area by box a: what lies inside of b of its edges moves outwards with them."""
    normals, length, moment = _inside_of_edges(a, b)
    x, y = (normals * length[..., None]).sum(1).unbind(-1)
    cos, sin = torch.cos(b[:, 4]), torch.sin(b[:, 4])
    right_left, bottom_top = length[:, :2].sum(1), length[:, 2:].sum(1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos, right_left / 2, bottom_top / 2, -moment.sum(1)], -1)


def iou_pairs_gradients(a: Tensor, b: Tensor, gradient: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Gradients `[K, 5]` by both boxes of pairs, from the gradient `[K]` by their IoU (or intersection over the first's area).

    Where edges coincide, the IoU has a kink, and this is the mean of the derivatives on both sides: 0 for identical boxes. It is 0,
    too, for boxes that are apart, and for those without a finite area.
    """
    dtype = a.dtype, b.dtype
    a, b, gradient = _wide(a), _wide(b), _wide(gradient)
    area_a, area_b = (x[:, 2].clamp_min(0) * x[:, 3].clamp_min(0) for x in (a, b))
    shared = torch.minimum(_intersection(a, b), torch.minimum(area_a, area_b))
    whole = area_a if mode == "iof" else area_a + area_b - shared
    valid = (area_a > 0) & (area_b > 0) & torch.isfinite(area_a + area_b)
    whole = torch.where(valid, whole, torch.ones_like(whole))
    by_shared = torch.where(valid, (1 / whole) if mode == "iof" else (whole + shared) / whole.square(), 0.0)
    by_area = torch.where(valid, -shared / whole.square(), 0.0)
    results = []
    for own, other, counts in ((a, b, True), (b, a, mode == "iou")):
        of_area = torch.zeros_like(own)
        of_area[:, 2], of_area[:, 3] = own[:, 3], own[:, 2]
        total = by_shared[:, None] * _intersection_gradient(own, other) + (by_area[:, None] * of_area if counts else 0.0)
        sound = valid[:, None] & (total.abs() <= torch.finfo(dtype[0]).max)
        results.append(gradient[:, None] * torch.where(sound, total, 0.0))
    return results[0].to(dtype[0]).contiguous(), results[1].to(dtype[1]).contiguous()


def iou_matrix_gradients(a: Tensor, b: Tensor, gradient: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Gradients `[N, 5]` and `[M, 5]` by both lists of boxes from the gradient `[N, M]` by their matrix of IoUs."""
    of_a, of_b = _wide(a.new_zeros(a.shape)), _wide(b.new_zeros(b.shape))
    for i, j in _near_pairs(a, b):
        grad_a, grad_b = iou_pairs_gradients(_wide(a[i]), _wide(b[j]), gradient[i, j], mode)
        of_a.index_add_(0, i, grad_a)
        of_b.index_add_(0, j, grad_b)
    return of_a.to(a.dtype), of_b.to(b.dtype)


def _ratio(intersection: Tensor, area_a: Tensor, area_b: Tensor, mode: str) -> Tensor:
    """IoU, or intersection over the first one's area; 0 where a shape has no area or is not finite."""
    check_mode(mode)
    smaller = torch.minimum(area_a, area_b)
    intersection = torch.minimum(intersection, smaller)
    if intersection.dtype == torch.float64:
        intersection = torch.where(intersection < ROUNDING * smaller, torch.zeros_like(intersection), intersection)
    whole = area_a if mode == "iof" else area_a + area_b - intersection
    valid = (area_a > 0) & (area_b > 0) & torch.isfinite(area_a + area_b + intersection)
    return torch.where(valid, intersection / torch.where(valid, whole, torch.ones_like(whole)), torch.zeros_like(whole))


def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """IoU `[K]` of paired boxes a `[K, 5]` and b `[K, 5]`; see `rotated_iou`."""
    dtype = a.dtype
    a, b = _wide(a), _wide(b)
    area_a, area_b = (x[:, 2].clamp_min(0) * x[:, 3].clamp_min(0) for x in (a, b))
    return _ratio(_intersection(a, b), area_a, area_b, mode).to(dtype)


def _near_pairs(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Index pairs (i, j), ascending in i then j, whose bounding circles meet; in blocks of bounded size."""
    radius_a, radius_b = (_wide(x)[:, 2:4].norm(dim=-1) / 2 for x in (a, b))
    centre_a, centre_b = _wide(a)[:, :2], _wide(b)[:, :2]
    rows = max(1, 4 * _PAIRS_AT_ONCE // max(1, len(b)))
    for start in range(0, len(a), rows):
        part = slice(start, start + rows)
        distance2 = (centre_a[part, None] - centre_b[None]).square().sum(-1)
        i, j = (distance2 <= (radius_a[part, None] + radius_b[None]).square()).nonzero(as_tuple=True)
        for at in range(0, len(i), _PAIRS_AT_ONCE):
            yield i[at : at + _PAIRS_AT_ONCE] + start, j[at : at + _PAIRS_AT_ONCE]


def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """Intersection over union `[N, M]` of boxes a `[N, 5]` and b `[M, 5]` (`boxes.py`), in a's dtype.

    mode "iof" divides by the area of the first box instead. Exact for every input: 0 for boxes without area, never NaN, in [0, 1].
    """
    result = a.new_zeros(len(a), len(b))
    for i, j in _near_pairs(a, b):
        result[i, j] = rotated_iou_pairs(a[i], b[j], mode)
    return result


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None = None, iou_threshold: float = 0.1) -> Tensor:
    """Greedy non-maximum suppression; the kept indices `[K]` (int64), best first.

    boxes `[N, 5]`, scores `[N]`, labels `[N]` or None. A box is dropped when its IoU with a kept, better one of the same label is
    **greater** than the threshold. Ties in score: the lower index wins.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    boxes = _wide(boxes.detach()[order])
    labels = None if labels is None else labels[order]
    alive = torch.ones(len(order), dtype=torch.bool)
    better, worse = [], []
    for i, j in _near_pairs(boxes, boxes):
        wanted = i < j if labels is None else (i < j) & (labels[i] == labels[j])
        i, j = i[wanted], j[wanted]
        over = rotated_iou_pairs(boxes[i], boxes[j]) > iou_threshold
        better.append(i[over].cpu())
        worse.append(j[over].cpu())
    if better:
        first, second = torch.cat(better), torch.cat(worse)
        sources, counts = torch.unique_consecutive(first, return_counts=True)
        for source, victims in zip(sources.tolist(), second.split(counts.tolist()), strict=True):
            if alive[source]:
                alive[victims] = False
    return order[alive.to(order.device)]


def assign_anchors(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float, layout: Sequence[int] = ()) -> Tensor:
    """See `ops.assign_anchors`: the rule on the whole matrix of IoUs, however the anchors lie."""
    result = torch.full((len(anchors),), -1, device=anchors.device)
    if len(boxes) == 0 or len(anchors) == 0:
        return torch.zeros_like(result)
    matrix = rotated_iou(anchors, boxes)
    best = matrix.amax(1)
    owner = (matrix == best[:, None]).int().argmax(1)  # the first of equals
    result[best < negative_iou] = 0
    result[best >= positive_iou] = owner[best >= positive_iou] + 1
    for index, best_of_object in enumerate(matrix.amax(0)):
        if best_of_object > 0:
            result[matrix[:, index] == best_of_object] = index + 1
    return result


def assign_dynamic(
    points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """See `ops.assign_dynamic`: the rule on the whole matrix of costs of points with objects."""
    index, quality = torch.zeros(len(points), dtype=torch.int64, device=points.device), torch.zeros_like(strides).float()
    candidates = inside(points, objects).any(1).nonzero().squeeze(1)
    if len(candidates) == 0:
        return index, quality
    points, strides, boxes, logits = points[candidates], strides[candidates], boxes[candidates], logits[candidates]
    iou = known_ious(rotated_iou(clamped(boxes), clamped(objects)))
    cost = pair_costs(points, strides, class_costs(logits), logits, objects, labels, iou)

    many = iou.topk(min(TOP_IOUS, len(points)), dim=0).values.double().sum(0).long().clamp_min(1)
    by_cost = cost.argsort(dim=0, stable=True)
    rank = torch.arange(len(points), device=points.device)[:, None]
    taken = torch.zeros_like(cost, dtype=torch.bool).scatter_(0, by_cost, rank < many) & cost.isfinite()

    contested = taken.sum(1) > 1
    owner = torch.where(contested, cost.argmin(1), taken.int().argmax(1))  # the first of equals
    positive = taken.any(1)
    index[candidates[positive]] = owner[positive] + 1
    quality[candidates[positive]] = iou[positive, owner[positive]]
    return index, quality


def polygon_area(corners: Tensor) -> Tensor:
    """Signed area `[...]` of simple polygons `[..., P, 2]`, positive for clockwise on the screen (y down)."""
    local = corners - corners[..., :1, :]
    x, y = local.unbind(-1)
    return (x * y.roll(-1, -1) - y * x.roll(-1, -1)).sum(-1) / 2


def _project(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Image of polygons `[K, P, 2]` under projection onto the half plane right of start -> end (screen sense): `[K, 2P, 2]`."""
    along = end - start
    normal = torch.stack([-along[:, 1], along[:, 0]], -1)
    length2 = normal.square().sum(-1).clamp_min(1e-300)
    depth = ((points - start[:, None]) * normal[:, None]).sum(-1)  # > 0 inside
    following = depth.roll(-1, 1)
    cross = (depth > 0) != (following > 0)
    span = torch.where(cross, depth - following, torch.ones_like(depth))
    entry = points + (depth / span).unsqueeze(-1) * (points.roll(-1, 1) - points)
    foot = points - (depth.clamp_max(0) / length2[:, None]).unsqueeze(-1) * normal[:, None]
    return torch.stack([foot, torch.where(cross.unsqueeze(-1), entry, foot)], 2).flatten(1, 2)


def _polygon_intersection(p: Tensor, q: Tensor) -> Tensor:
    """Area `[K]` shared by paired simple quadrilaterals `[K, 4, 2]`, convex or not: p clipped by the two triangles of q, signed."""
    origin = q[:, :1].clone()
    p, q = p - origin, q - origin
    total = p.new_zeros(len(p))
    for corners in ([0, 1, 2], [0, 2, 3]):
        triangle = q[:, corners]
        sign = torch.sign(polygon_area(triangle))
        triangle = torch.where((sign < 0)[:, None, None], triangle.flip(1), triangle)
        clipped = p
        for k in range(3):
            clipped = _project(clipped, triangle[:, k], triangle[:, (k + 1) % 3])
        total = total + sign * polygon_area(clipped)
    return (total * torch.sign(polygon_area(p)) * torch.sign(polygon_area(q))).clamp_min(0)


def polygon_iou(a: Tensor, b: Tensor) -> Tensor:
    """True IoU `[N, M]` (float64) of simple quadrilaterals a `[N, 4, 2]` and b `[M, 4, 2]`, convex or not, either orientation.

    The DOTA protocol compares quadrilaterals as labelled, which need not be rectangles.
    """
    a, b = a.double(), b.double()
    result = a.new_zeros(len(a), len(b))
    area_a, area_b = polygon_area(a).abs(), polygon_area(b).abs()
    low_a, high_a, low_b, high_b = a.amin(1), a.amax(1), b.amin(1), b.amax(1)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(b)))
    for start in range(0, len(a), rows):
        part = slice(start, start + rows)
        near = ((low_a[part, None] < high_b[None]) & (low_b[None] < high_a[part, None])).all(-1)
        rows_near, columns = near.nonzero(as_tuple=True)
        for at in range(0, len(columns), _PAIRS_AT_ONCE // 16):
            i, j = rows_near[at : at + _PAIRS_AT_ONCE // 16] + start, columns[at : at + _PAIRS_AT_ONCE // 16]
            result[i, j] = _ratio(_polygon_intersection(a[i], b[j]), area_a[i], area_b[j], "iou")
    return result


def overlapping_polygons(a: np.ndarray, b: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `ops.overlapping_polygons`."""
    matrix = polygon_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    i, j = np.nonzero(matrix > least)
    return i, j, matrix[i, j]


def winograd_matrices(weight: Tensor) -> Tensor:
    """Weights `[K, C, 3, 3]` of a convolution as 36 matrices `[36, C, K]` float32, G g G^T (Lavin and Gray, arXiv:1509.09308)."""
    spread = torch.einsum("ay,kcyx,bx->abck", _G, weight.double(), _G)
    return spread.reshape(36, weight.shape[1], weight.shape[0]).float().contiguous()


def winograd_convolution(x: Tensor, matrices: Tensor, bias: Tensor) -> Tensor:
    """See `ops.winograd_convolution`: by the definition of a convolution, with the weights that the matrices were made of."""
    back = torch.linalg.pinv(_G)
    spread = matrices.double().reshape(6, 6, *matrices.shape[1:])
    weight = torch.einsum("ya,abck,xb->kcyx", back, spread, back)
    result = F.conv2d(x.double(), weight, bias.double(), padding=1)
    return result.float().contiguous(memory_format=torch.channels_last)


def depthwise_weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """See `ops.depthwise_weight_gradient`: one shifted product a tap."""
    reach, (height, width) = size // 2, x.shape[2:]
    padded = F.pad(x.double(), [reach] * 4)
    shifted = [padded[:, :, y : y + height, x : x + width] for y in range(size) for x in range(size)]
    taps = [(gradient.double() * part).sum((0, 2, 3)) for part in shifted]
    return torch.stack(taps, 1).view(-1, 1, size, size).float()
