"""Corners and the forms other tools give an object: a turned rectangle by its centre, sides and angle, or an upright box."""

import numpy as np
import torch

from rotanext.boxes import corners_to_boxes
from rotanext.labels.values import Invalid

Array = np.ndarray


def turned(cx: Array | float, cy: Array | float, w: Array | float, h: Array | float, angle: Array | float) -> Array:
    """Corners `[..., 4, 2]` of rectangles; angle in radians, clockwise on the screen. The side from first to second is w long."""
    cos, sin = np.cos(angle) / 2, np.sin(angle) / 2
    wx, wy, hx, hy = w * cos, w * sin, -h * sin, h * cos
    x = np.stack([cx - wx - hx, cx + wx - hx, cx + wx + hx, cx - wx + hx], -1)
    y = np.stack([cy - wy - hy, cy + wy - hy, cy + wy + hy, cy - wy + hy], -1)
    return np.stack([x, y], -1)


def upright(left: float, top: float, right: float, bottom: float) -> Array:
    """Corners `[4, 2]` of an upright box; raises `Invalid` where its ends are the wrong way round."""
    if right < left or bottom < top:
        raise Invalid(f"a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})", "left before right and top before bottom")
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def as_rectangles(corners: Array) -> Array:
    """Centre, sides and angle `[N, 5]` (float64, radians clockwise in (-pi, pi]) that `turned` takes back to `corners [N, 4, 2]`.

    Exact where they are rectangles in clockwise order; see `off_rectangle`.
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
    return np.linalg.norm(turned(*as_rectangles(corners).T) - corners, axis=2).max(1, initial=0.0)


def half_turn(angle: Array | float, start: float) -> Array:
    """Angles (radians) brought into [start, start + pi) by multiples of pi; the last 1e-8 before the end are the start."""
    return start + np.maximum((angle - start + 1e-8) % np.pi - 1e-8, 0.0)


def signed_area(corners: Array) -> Array:
    """Area `[N]` of outlines `[N, K, 2]` in square pixels, positive where they run clockwise on the screen."""
    x, y = np.moveaxis(corners - corners[:, :1], -1, 0)
    return (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1) / 2


def least_rectangles(corners: Array) -> Array:
    """Corners `[N, 4, 2]`, clockwise, of the rectangles of least area around quadrilaterals, each begun near its first corner."""
    boxes = corners_to_boxes(torch.from_numpy(np.ascontiguousarray(corners, np.float64)).reshape(-1, 4, 2)).numpy()
    found = turned(*boxes.T)
    first = np.linalg.norm(found - corners[:, :1], axis=2).argmin(1)
    order = (first[:, None] + np.arange(4)) % 4
    return np.take_along_axis(found, order[:, :, None], 1)


def rectangle_around(points: Array) -> Array:
    """Corners `[4, 2]` of the rectangle of least area around points `[K, 2]`.

    A side of it lies along their hull (Freeman and Shapira, 1975). Raises `Invalid` where the points enclose no area.
    """
    origin = points.mean(0)
    hull = _hull(points - origin)
    if len(hull) < 3:
        raise Invalid("an outline that encloses no area", "a polygon")
    best, least = None, np.inf
    edges = np.roll(hull, -1, 0) - hull
    for x, y in edges / np.linalg.norm(edges, axis=1, keepdims=True):
        axes = np.array([[x, y], [-y, x]])
        low, high = (hull @ axes.T).min(0), (hull @ axes.T).max(0)
        if np.prod(high - low) < least * (1 - 1e-9):
            least, best = float(np.prod(high - low)), (low, high, axes)
    assert best is not None
    (left, top), (right, bottom), axes = best
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) @ axes + origin


def _hull(points: Array) -> Array:
    """The convex hull `[M, 2]` in order (Andrew, 1979)."""
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


def four_corners(outline: Array) -> tuple[Array, bool]:
    """Corners `[4, 2]` of an outline `[K, 2]`, and whether they are the outline itself; a repeated last point doesn't count."""
    if len(outline) == 5 and (outline[0] == outline[-1]).all():
        outline = outline[:-1]
    return (outline, True) if len(outline) == 4 else (rectangle_around(outline), False)
