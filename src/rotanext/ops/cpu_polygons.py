"""Overlaps of labelled quadrilaterals for the CPU in numba: the formulas of reference.py pair by pair, in float64."""

import math

import numpy as np

from rotanext.ops.jit import jit, jit_inline, operator

_MOST_POINTS = 32  # a quadrilateral, doubled by each of a triangle's three half planes


@jit_inline
def _area(x: np.ndarray, y: np.ndarray, count: int) -> float:
    """Signed area of the polygon of the first points."""
    total = 0.0
    for k in range(count):
        after = k + 1 if k + 1 < count else 0
        total += (x[k] - x[0]) * (y[after] - y[0]) - (y[k] - y[0]) * (x[after] - x[0])
    return total / 2


@jit
def _project(
    x: np.ndarray, y: np.ndarray, count: int, start: int, corners: np.ndarray, out_x: np.ndarray, out_y: np.ndarray
) -> None:
    """Image of a polygon under projection onto the half plane right of a triangle's edge; twice as many points."""
    end = (start + 1) % 3
    normal_x, normal_y = corners[start, 1] - corners[end, 1], corners[end, 0] - corners[start, 0]
    length2 = max(normal_x * normal_x + normal_y * normal_y, 1e-300)
    first = (x[0] - corners[start, 0]) * normal_x + (y[0] - corners[start, 1]) * normal_y
    depth = first
    for k in range(count):
        after = k + 1 if k + 1 < count else 0
        following = first if after == 0 else (x[after] - corners[start, 0]) * normal_x + (y[after] - corners[start, 1]) * normal_y
        outside = min(depth, 0.0) / length2
        out_x[2 * k], out_y[2 * k] = x[k] - outside * normal_x, y[k] - outside * normal_y
        if (depth > 0.0) != (following > 0.0):
            share = depth / (depth - following)
            out_x[2 * k + 1], out_y[2 * k + 1] = x[k] + share * (x[after] - x[k]), y[k] + share * (y[after] - y[k])
        else:
            out_x[2 * k + 1], out_y[2 * k + 1] = out_x[2 * k], out_y[2 * k]
        depth = following


@jit
def _shared(p: np.ndarray, q: np.ndarray, points: np.ndarray, triangle: np.ndarray) -> float:
    """Signed area shared by two quadrilaterals: the first clipped by the two triangles of the second."""
    total = 0.0
    for half in range(2):
        for k in range(3):
            corner = 0 if k == 0 else k + half
            triangle[k, 0], triangle[k, 1] = q[corner, 0] - q[0, 0], q[corner, 1] - q[0, 1]
        area = (triangle[1, 0] * triangle[2, 1] - triangle[1, 1] * triangle[2, 0]) / 2
        if area == 0.0:
            continue
        if area < 0.0:  # as reference.py does: the triangle's corners in reverse
            for c in range(2):
                triangle[0, c], triangle[2, c] = triangle[2, c], triangle[0, c]
        count = 4
        for k in range(4):
            points[0, 0, k], points[0, 1, k] = p[k, 0] - q[0, 0], p[k, 1] - q[0, 1]
        for k in range(3):
            source, target = points[k % 2], points[1 - k % 2]
            _project(source[0], source[1], count, k, triangle, target[0], target[1])
            count *= 2
        clipped = _area(points[1, 0], points[1, 1], count)
        total += clipped if area > 0.0 else -clipped
    return total


@jit
def _overlapping(a: np.ndarray, b: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The second ones are sorted by their left ends, so that each of the first meets only those in its columns."""
    points, triangle = np.empty((2, 2, _MOST_POINTS)), np.empty((3, 2))
    areas, lefts, widest = np.empty(len(b)), np.empty(len(b)), 0.0
    for j in range(len(b)):
        areas[j], lefts[j] = _area(b[j, :, 0], b[j, :, 1], 4), b[j, :, 0].min()
        if math.isfinite(areas[j]):
            widest = max(widest, b[j, :, 0].max() - lefts[j])
    order = np.argsort(lefts)
    lefts = lefts[order]
    count = 0
    first, second, values = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64)
    for i in range(len(a)):
        area, of_this = _area(a[i, :, 0], a[i, :, 1], 4), count
        left, right, top, bottom = a[i, :, 0].min(), a[i, :, 0].max(), a[i, :, 1].min(), a[i, :, 1].max()
        if not (area != 0.0 and math.isfinite(area)):
            continue
        for at in range(np.searchsorted(lefts, left - widest), len(b)):
            j = order[at]
            if not lefts[at] < right:
                break
            if not (left < b[j, :, 0].max() and b[j, :, 1].min() < bottom and top < b[j, :, 1].max()):
                continue
            if not (areas[j] != 0.0 and math.isfinite(areas[j])):
                continue
            shared = _shared(a[i], b[j], points, triangle) * np.sign(area) * np.sign(areas[j])
            size_a, size_b = abs(area), abs(areas[j])
            shared = min(max(shared, 0.0), min(size_a, size_b))
            value = shared / (size_a + size_b - shared)
            if not value > least:
                continue
            if count == len(values):
                room = np.empty(count, np.int64)
                first, second = np.concatenate((first, room)), np.concatenate((second, room))
                values = np.concatenate((values, np.empty(count)))
            place = count  # in the order of j
            while place > of_this and second[place - 1] > j:
                second[place], values[place] = second[place - 1], values[place - 1]
                place -= 1
            first[count], second[place], values[place] = i, j, value
            count += 1
    return first[:count], second[:count], values[:count]


@operator
def overlapping_polygons(a: np.ndarray, b: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices i and j (ascending) and IoU of the pairs of quadrilaterals `[N, 4, 2]` and `[M, 4, 2]` whose IoU is above `least`."""
    result: tuple[np.ndarray, np.ndarray, np.ndarray] = _overlapping(a, b, least)
    return result
