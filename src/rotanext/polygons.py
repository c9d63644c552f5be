"""Geometry of boxes and outlines in NumPy, float64: for labels, data and results, where torch need not be loaded.

Frame: pixels, x right, y down, angles in radians, positive turns clockwise on the screen, as in `boxes.py`, which says what a box
is and does the same for tensors. An outline is `[K, 2]` (x, y), open: its last point is not its first one again.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray

_AT_ONCE = 1 << 20  # products of directions and points held at once
_TIE = 1e-9  # of an area: rectangles that differ by less are equally small, and the first counts
_FIRST, _SECOND = (0, 1, 2, 0, 0, 1), (1, 2, 3, 3, 2, 3)  # the lines through two of four points: sides before diagonals


# Angles and boxes


def wrap_angle(angle: ArrayLike, start: float = -math.pi / 2, slack: float = 0.0) -> Array:
    """Angles (radians, any shape) brought into [start, start + pi) by multiples of pi.

    Those at most `slack` below the end become the start: for angles that will be rounded, and must not reach the end then.
    """
    wrapped = start + np.maximum((np.asarray(angle, np.float64) - start + slack) % math.pi - slack, 0.0)
    return np.where(wrapped >= start + math.pi, wrapped - math.pi, wrapped)  # the sum can round up to the open end


def regularize(boxes: ArrayLike) -> Array:
    """Boxes `[..., 5]` with any angle and edge order, brought into the convention of `boxes.py` (the same rectangle, w >= h)."""
    cx, cy, w, h, angle = _columns(boxes)
    swap = w < h
    angle = wrap_angle(np.where(swap, angle + math.pi / 2, angle))
    return np.stack([cx, cy, np.where(swap, h, w), np.where(swap, w, h), angle], -1)


def boxes_to_corners(boxes: ArrayLike) -> Array:
    """Corners `[..., 4, 2]` of boxes `[..., 5]` with any angle and edge order, clockwise on the screen.

    The side from the first corner to the second is w long and points along the angle.
    """
    cx, cy, w, h, angle = _columns(boxes)
    cos, sin = np.cos(angle) / 2, np.sin(angle) / 2
    wx, wy, hx, hy = w * cos, w * sin, -h * sin, h * cos
    x = np.stack([cx - wx - hx, cx + wx - hx, cx + wx + hx, cx - wx + hx], -1)
    y = np.stack([cy - wy - hy, cy + wy - hy, cy + wy + hy, cy - wy + hy], -1)
    return np.stack([x, y], -1)


def _columns(boxes: ArrayLike) -> tuple[Array, Array, Array, Array, Array]:
    values = np.asarray(boxes, np.float64)
    return values[..., 0], values[..., 1], values[..., 2], values[..., 3], values[..., 4]


def upright(low: ArrayLike, high: ArrayLike) -> Array:
    """Corners `[..., 4, 2]`, clockwise from the top left, of upright boxes from their points `low` and `high` `[..., 2]`."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    corners = np.empty((*low.shape[:-1], 4, 2))
    corners[..., 0, :], corners[..., 2, :] = low, high
    corners[..., 1, 0], corners[..., 1, 1] = high[..., 0], low[..., 1]
    corners[..., 3, 0], corners[..., 3, 1] = low[..., 0], high[..., 1]
    return corners


def as_rectangles(corners: Array) -> Array:
    """Boxes `[N, 5]` (any edge order, angle in (-pi, pi]) that `boxes_to_corners` takes back to `corners [N, 4, 2]`.

    Exact where these are rectangles in clockwise order; see `off_rectangle`.
    """
    centre = corners.mean(1)
    along = (corners[:, 1] - corners[:, 0] + corners[:, 2] - corners[:, 3]) / 2
    down = (corners[:, 3] - corners[:, 0] + corners[:, 2] - corners[:, 1]) / 2
    w, h = np.linalg.norm(along, axis=1), np.linalg.norm(down, axis=1)
    angle = np.arctan2(along[:, 1], along[:, 0])
    angle = np.where(w > 0, angle, np.arctan2(-down[:, 0], down[:, 1]))
    return np.stack([centre[:, 0], centre[:, 1], w, h, angle], 1)


def off_rectangle(corners: Array) -> Array:
    """How far `[N]` (pixels) corners `[N, 4, 2]` lie from the rectangles of `as_rectangles`: 0 for clockwise rectangles."""
    return np.linalg.norm(boxes_to_corners(as_rectangles(corners)) - corners, axis=2).max(1, initial=0.0)


# Rectangles of least area. One has a side along an edge of the convex hull (Freeman and Shapira, 1975). Ties are common (a
# square, every hull that is a triangle); which one wins must not be a matter of rounding, so the first within _TIE does.


def corners_to_boxes(corners: ArrayLike) -> Array:
    """Boxes `[N, 5]` (le90) of the rectangles of least area around quadrilaterals `[N, 4, 2]`, in any corner order.

    Exact for rectangles. The hull's edges are among the six lines through two of the four points; of equally small rectangles the
    one along the first of these counts: sides in their order, then diagonals. Points on one line give a box of height 0, four
    equal points one of size 0.
    """
    points = np.asarray(corners, np.float64)
    centre = points.mean(1, keepdims=True)
    points = points - centre
    along, length = _directions(points[:, _SECOND] - points[:, _FIRST])
    low, high = _extents(points, along)
    sides = high - low
    best = np.arange(len(points)), _first_least(np.where(length > 0, sides[..., 0] * sides[..., 1], np.inf))
    along, middle, sides = along[best], (low[best] + high[best]) / 2, sides[best]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    centres = middle[:, :1] * along + middle[:, 1:] * across + centre[:, 0]
    return regularize(np.concatenate([centres, sides, np.arctan2(along[:, 1:], along[:, :1])], 1))


def least_rectangles(corners: Array) -> Array:
    """Corners `[N, 4, 2]`, clockwise, of the rectangles of `corners_to_boxes`, each begun near the quadrilateral's first corner."""
    found = boxes_to_corners(corners_to_boxes(corners))
    first = np.linalg.norm(found - corners[:, :1], axis=2).argmin(1)
    order = (first[:, None] + np.arange(4)) % 4
    return np.take_along_axis(found, order[:, :, None], 1)


def least_rectangle(points: Array) -> Array | None:
    """Corners `[4, 2]`, clockwise, of the rectangle of least area around points `[K, 2]`; None where these enclose no area.

    Of equally small rectangles the one along the first edge of `convex_hull` counts; the first two corners lie on that edge.
    """
    origin = points.mean(0)
    hull = convex_hull(points - origin)
    if len(hull) < 3:
        return None
    along, _ = _directions(np.roll(hull, -1, 0) - hull)
    parts = np.array_split(along, -(-(len(hull) ** 2) // _AT_ONCE))
    areas = np.concatenate([np.subtract(*_extents(hull[None], part[None])[::-1])[0].prod(1) for part in parts])
    best = along[_first_least(areas)]
    low, high = (ends[0, 0] for ends in _extents(hull[None], best[None, None]))
    return upright(low, high) @ np.array([best, [-best[1], best[0]]]) + origin


def convex_hull(points: Array) -> Array:
    """The corners `[M, 2]` of the convex hull of points `[K, 2]`, clockwise on the screen from the leftmost (Andrew, 1979).

    Fewer than three where the points lie on one line.
    """
    ordered = sorted(set(map(tuple, points.tolist())))

    def chain(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
        out: list[tuple[float, float]] = []
        for x, y in run:
            while len(out) > 1:
                (ax, ay), (bx, by) = out[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                out.pop()
            out.append((x, y))
        return out[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1])).reshape(-1, 2)


def _directions(steps: Array) -> tuple[Array, Array]:
    """Unit vectors `[..., 2]` along steps `[..., 2]` (0 along one of length 0), and the lengths `[...]`."""
    length = np.hypot(steps[..., 0], steps[..., 1])
    return steps / np.where(length > 0, length, 1.0)[..., None], length


def _extents(points: Array, along: Array) -> tuple[Array, Array]:
    """Least and greatest coordinates `[N, D, 2]` of points `[N, P, 2]` in frames whose x axes are the unit vectors `[N, D, 2]`."""
    x, y = np.ascontiguousarray(points.transpose(2, 1, 0))[..., None]  # [P, N, 1] each: minima over a first axis are fast
    ax, ay = np.ascontiguousarray(np.moveaxis(along, -1, 0))
    u, v = ax * x + ay * y, ax * y - ay * x  # written out: a matrix product rounds as it likes
    return np.stack([u.min(0), v.min(0)], 2), np.stack([u.max(0), v.max(0)], 2)


def _first_least(areas: Array) -> Array:
    """Index `[...]` of the first of the areas `[..., D]` that is not larger than the least one, but for rounding."""
    return (areas <= areas.min(-1, keepdims=True) * (1 + _TIE)).argmax(-1)


# Outlines


def signed_area(outlines: ArrayLike) -> Array:
    """Area `[...]` (square pixels) of outlines `[..., K, 2]`, positive where clockwise on the screen: the shoelace formula.

    With y up, as on a map, positive is counter-clockwise. Measured from the first point: far from the origin digits would be lost.
    """
    points = np.asarray(outlines, np.float64)
    local = points[..., 1:, :] - points[..., :1, :]
    x, y = local[..., 0], local[..., 1]
    return (x[..., :-1] * y[..., 1:] - x[..., 1:] * y[..., :-1]).sum(-1) / 2


def crosses(corners: Array) -> Array:
    """Whether `[N]` the outline of each quadrilateral `[N, 4, 2]` crosses itself: two opposite sides, in a point inside both."""
    points = np.concatenate([corners, corners[:, :3]], 1)
    side, third, fourth = (points[:, step : step + 4] - corners for step in (1, 2, 3))  # [N, 4, 2]: seen from each corner
    x, y = side[..., 0], side[..., 1]
    # The line through a side has the other two corners on its two sides: the triangles with them differ in sign.
    parts = (x * third[..., 1] - y * third[..., 0]) * (x * fourth[..., 1] - y * fourth[..., 0]) < 0
    both: Array = parts[:, :2] & parts[:, 2:]
    return both[:, 0] | both[:, 1]


def apart(outline: Array, others: Array) -> Array:
    """Whether `[N]` a line along a side of one of them parts the outline `[4, 2]` from each quadrilateral `[N, 4, 2]`.

    For convex ones: whether they overlap nowhere (the separating axis theorem); for others it may not find the line.
    """
    both = np.stack([np.broadcast_to(outline, others.shape), others])  # [2, N, 4, 2]
    sides = (np.roll(both, -1, 2) - both).transpose(1, 0, 2, 3).reshape(len(others), 8, 2)
    across = np.stack([-sides[..., 1], sides[..., 0]], -1)
    along = (both[:, :, None] * across[:, :, None]).sum(-1)  # [2, N, 8, 4]
    low, high = along.min(3), along.max(3)
    result: Array = (((high[0] <= low[1]) | (high[1] <= low[0])) & sides.any(2)).any(1)  # a side without length parts nothing
    return result


def area_inside(corners: Array, width: float, height: float) -> Array:
    """Area `[N]` (square pixels) of the part of quadrilaterals `[N, 4, 2]`, convex or not, inside [0, width] x [0, height].

    Clamping to the window maps everything outside onto its border, so the clamped outline encloses the area inside. An
    edge's clamped image bends where the edge crosses the window's four lines.
    """
    edges = np.roll(corners, -1, 1) - corners
    limits = np.array([[0.0, width], [0.0, height]])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (limits - corners[..., None]) / edges[..., None]  # [N, 4, xy, low and high]
    at = np.nan_to_num(at.reshape(len(corners), 4, 4), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    at = np.sort(np.concatenate([np.zeros_like(at[..., :1]), at], -1), -1)
    points = corners[:, :, None] + at[..., None] * edges[:, :, None]
    return np.abs(signed_area(points.reshape(len(corners), 20, 2).clip(0, (width, height))))


def corner_distance(a: Array, b: Array) -> Array:
    """How far `[N]` (pixels) the corners of outlines a `[N, 4, 2]` lie from the nearest corners of b, at most, in any order."""
    return np.linalg.norm(a[:, :, None] - b[:, None], axis=3).min(2).max(1, initial=0.0)


def rotation(angle: float) -> Array:
    """The matrix `[2, 2]` that turns column vectors by an angle, clockwise on the screen: `points @ rotation(angle).T` for rows."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])
