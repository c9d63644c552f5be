"""Rotated IoU for the CPU in numba: the formulas of reference.py pair by pair, in float64.

Trigonometry and extents are computed once a box, and a pair is looked at only where bounding circles and rectangles meet.
"""

import math

import numpy as np

from rotanext.ops.jit import in_parts, jit, jit_inline, operator
from rotanext.ops.reference import ROUNDING

# Columns of a prepared box. What rejects a pair comes first, so that it lies together in memory: centre, half extents along x and
# y, area, radius of the bounding circle; then half sides, cosine and sine, angle.
X, Y, EX, EY, AREA, RADIUS, W, H, COS, SIN, ANGLE = range(11)
COLUMNS = 11


@jit
def prepare(boxes: np.ndarray) -> np.ndarray:
    """Prepared boxes `[N, 11]` of `boxes [N, 5]`."""
    out = np.empty((len(boxes), COLUMNS))
    for i in range(len(boxes)):
        w, h, angle = boxes[i, 2] / 2, boxes[i, 3] / 2, boxes[i, 4]
        cos, sin = math.cos(angle), math.sin(angle)
        out[i, X], out[i, Y], out[i, W], out[i, H] = boxes[i, 0], boxes[i, 1], w, h
        out[i, COS], out[i, SIN], out[i, ANGLE] = cos, sin, angle
        out[i, RADIUS] = math.sqrt(w * w + h * h)
        out[i, AREA] = boxes[i, 2] * boxes[i, 3] if w > 0.0 and h > 0.0 else 0.0
        out[i, EX] = abs(w * cos) + abs(h * sin)
        out[i, EY] = abs(w * sin) + abs(h * cos)
    return out


@jit_inline
def _limit(value: float, low: float, high: float) -> float:
    return low if value < low else (high if value > high else value)


@jit
def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    """Area shared by two prepared boxes: the outline of a, clamped in the frame of b (see reference.py)."""
    dx, dy = a[X] - b[X], a[Y] - b[Y]
    cx, cy = dx * b[COS] + dy * b[SIN], dy * b[COS] - dx * b[SIN]
    turn = a[ANGLE] - b[ANGLE]
    if turn == 0.0:
        cos, sin = 1.0, 0.0
    else:
        cos, sin = a[COS] * b[COS] + a[SIN] * b[SIN], a[SIN] * b[COS] - a[COS] * b[SIN]
    wx, wy, hx, hy = a[W] * cos, a[W] * sin, -a[H] * sin, a[H] * cos
    limit_x, limit_y = b[W], b[H]
    # Corners in turn: each edge is twice a half side, added or taken away.
    x0, y0 = cx - wx - hx, cy - wy - hy
    total = 0.0
    for edge in range(4):
        if edge == 0:
            sx, sy = 2 * wx, 2 * wy
        elif edge == 1:
            sx, sy = 2 * hx, 2 * hy
        elif edge == 2:
            sx, sy = -2 * wx, -2 * wy
        else:
            sx, sy = -2 * hx, -2 * hy
        if sy != 0.0:
            t0, t1 = (-limit_y - y0) / sy, (limit_y - y0) / sy
            if t0 > t1:
                t0, t1 = t1, t0
            enter, leave = _limit(t0, 0.0, 1.0), _limit(t1, 0.0, 1.0)
            if leave > enter:
                step_x = sx if sx != 0.0 else 1.0
                t0, t1 = (-limit_x - x0) / step_x, (limit_x - x0) / step_x
                if t0 > t1:
                    t0, t1 = t1, t0
                bend0, bend1 = _limit(t0, enter, leave), _limit(t1, enter, leave)
                xa, ya = _limit(x0 + enter * sx, -limit_x, limit_x), _limit(y0 + enter * sy, -limit_y, limit_y)
                xb, yb = _limit(x0 + bend0 * sx, -limit_x, limit_x), _limit(y0 + bend0 * sy, -limit_y, limit_y)
                xc, yc = _limit(x0 + bend1 * sx, -limit_x, limit_x), _limit(y0 + bend1 * sy, -limit_y, limit_y)
                xd, yd = _limit(x0 + leave * sx, -limit_x, limit_x), _limit(y0 + leave * sy, -limit_y, limit_y)
                total += (xa + xb) * (yb - ya) + (xb + xc) * (yc - yb) + (xc + xd) * (yd - yc)
        x0, y0 = x0 + sx, y0 + sy
    return max(0.0, total / 2)


@jit_inline
def ratio(a: np.ndarray, b: np.ndarray, iof: bool) -> float:
    """IoU of two prepared boxes, or intersection over the first one's area."""
    if not (a[AREA] > 0.0 and b[AREA] > 0.0 and math.isfinite(a[AREA] + b[AREA])):
        return 0.0
    smaller = min(a[AREA], b[AREA])
    shared = min(_intersection(a, b), smaller)
    if shared < ROUNDING * smaller:
        return 0.0
    whole = a[AREA] if iof else a[AREA] + b[AREA] - shared
    value = shared / whole
    return value if math.isfinite(value) else 0.0


@jit_inline
def meet(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the bounding rectangles and circles of two prepared boxes meet."""
    dx, dy, reach = abs(a[X] - b[X]), abs(a[Y] - b[Y]), a[RADIUS] + b[RADIUS]
    return dx <= a[EX] + b[EX] and dy <= a[EY] + b[EY] and dx * dx + dy * dy <= reach * reach


@jit
def _pairs(first: np.ndarray, second: np.ndarray, iof: bool, out: np.ndarray) -> None:
    for k in range(len(out)):
        if meet(first[k], second[k]):
            out[k] = ratio(first[k], second[k], iof)


@jit
def _matrix(first: np.ndarray, second: np.ndarray, circles: np.ndarray, iof: bool, out: np.ndarray) -> None:
    """Fill rows of `out [N, M]`, zeros before, where boxes overlap; `circles [3, M]` holds x, y and radius of the second ones."""
    m = out.shape[1]
    x, y, radius = circles[0], circles[1], circles[2]
    near = np.zeros((m + 7) // 8 * 8, np.uint8)
    eights = near.view(np.uint64)
    for i in range(len(out)):
        own_x, own_y, own_radius = first[i, X], first[i, Y], first[i, RADIUS]
        for j in range(m):  # without branches, several at a time in the processor
            dx, dy, reach = x[j] - own_x, y[j] - own_y, radius[j] + own_radius
            near[j] = not dx * dx + dy * dy > reach * reach
        for k in range(len(eights)):
            if eights[k] == 0:
                continue
            for j in range(8 * k, min(8 * k + 8, m)):
                if near[j] and meet(first[i], second[j]):
                    out[i, j] = ratio(first[i], second[j], iof)


@operator
def iou_pairs(a: np.ndarray, b: np.ndarray, iof: bool, dtype: type) -> np.ndarray:
    """IoU `[K]` of paired boxes `[K, 5]` float64, as numbers of the type."""
    first, second = prepare(a), prepare(b)
    out: np.ndarray = np.zeros(len(a), dtype)
    in_parts(lambda part: _pairs(first[part], second[part], iof, out[part]), len(a), len(a))
    return out


@operator
def iou_matrix(a: np.ndarray, b: np.ndarray, iof: bool, dtype: type) -> np.ndarray:
    """IoU `[N, M]` of boxes `[N, 5]` and `[M, 5]` float64, as numbers of the type."""
    first, second = prepare(a), prepare(b)
    out: np.ndarray = np.zeros((len(a), len(b)), dtype)
    circles = np.ascontiguousarray(second[:, [X, Y, RADIUS]].T)
    in_parts(lambda part: _matrix(first[part], second, circles, iof, out[part]), len(a), out.size)
    return out


@jit
def _movement(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Derivatives `[5]` of the area that two prepared boxes share by the first one, see `reference._intersection_gradient`."""
    dx, dy = a[X] - b[X], a[Y] - b[Y]
    cx, cy = dx * b[COS] + dy * b[SIN], dy * b[COS] - dx * b[SIN]
    if a[ANGLE] == b[ANGLE]:
        cos, sin = 1.0, 0.0
    else:
        cos, sin = a[COS] * b[COS] + a[SIN] * b[SIN], a[SIN] * b[COS] - a[COS] * b[SIN]
    shift_x, shift_y, sides_w, sides_h, moment = 0.0, 0.0, 0.0, 0.0, 0.0
    for edge in range(4):
        upright = edge < 2
        sign = 1.0 if edge % 2 == 0 else -1.0
        normal_x, normal_y = (sign * cos, sign * sin) if upright else (-sign * sin, sign * cos)
        away, high = (a[W], a[H]) if upright else (a[H], a[W])
        low, share = -high, 1.0
        for axis in range(2):
            if axis == 0:
                start, step, limit = cx + normal_x * away, -normal_y, b[W]
            else:
                start, step, limit = cy + normal_y * away, normal_x, b[H]
            if step != 0.0:
                t0, t1 = (-limit - start) / step, (limit - start) / step
                low, high = max(low, min(t0, t1)), min(high, max(t0, t1))
            elif abs(start) >= limit:
                share = share / 2 if abs(start) == limit else 0.0
        length = share * max(0.0, high - low)
        shift_x, shift_y, moment = shift_x + normal_x * length, shift_y + normal_y * length, moment + length * (high + low) / 2
        if upright:
            sides_w += length
        else:
            sides_h += length
    out[0], out[1] = shift_x * b[COS] - shift_y * b[SIN], shift_x * b[SIN] + shift_y * b[COS]
    out[2], out[3], out[4] = sides_w / 2, sides_h / 2, -moment


@jit
def _pair_gradients(
    first: np.ndarray,
    second: np.ndarray,
    upstream: np.ndarray,
    iof: bool,
    limit: float,
    of_first: np.ndarray,
    of_second: np.ndarray,
) -> None:
    """Fill the gradients `[K, 5]`, zeros before, of prepared boxes that overlap; derivatives beyond the limit stay 0."""
    moved = np.empty(5)
    for k in range(len(first)):
        a, b = first[k], second[k]
        if not (meet(a, b) and a[AREA] > 0.0 and b[AREA] > 0.0 and math.isfinite(a[AREA] + b[AREA])):
            continue
        shared = min(_intersection(a, b), a[AREA], b[AREA])
        whole = a[AREA] if iof else a[AREA] + b[AREA] - shared
        by_shared = 1 / whole if iof else (whole + shared) / (whole * whole)
        by_area = -shared / (whole * whole)
        for turn in range(2):
            own, other, out = (a, b, of_first) if turn == 0 else (b, a, of_second)
            _movement(own, other, moved)
            for column in range(5):
                value = by_shared * moved[column]
                if turn == 0 or not iof:
                    if column == 2:
                        value += by_area * 2 * own[H]
                    elif column == 3:
                        value += by_area * 2 * own[W]
                if abs(value) <= limit:
                    out[k, column] = upstream[k] * value


@operator
def iou_pairs_gradients(
    a: np.ndarray, b: np.ndarray, upstream: np.ndarray, iof: bool, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients `[K, 5]` float64 by paired boxes `[K, 5]`, from that by their IoUs `[K]`; see `reference.iou_pairs_gradients`."""
    first, second = prepare(a), prepare(b)
    of_first, of_second = np.zeros_like(a), np.zeros_like(b)

    def work(part: slice) -> None:
        _pair_gradients(first[part], second[part], upstream[part], iof, limit, of_first[part], of_second[part])

    in_parts(work, len(a), 4 * len(a))
    return of_first, of_second
