"""Rotated IoU and NMS for the CPU in numba: the formulas of reference.py pair by pair, in float64.

Vertices and trigonometry are computed once a box. A pair is looked at only where the bounding circles meet, and NMS computes an IoU
only between a box and the kept, better ones near it, found in a grid whose cells fit the boxes' sizes.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch

from rotanext.ops.reference import ROUNDING

# Columns of a prepared box: centre, half sides, cosine and sine, angle, radius of the bounding circle, area,
# and half extents along x and y.
_X, _Y, _W, _H, _COS, _SIN, _ANGLE, _RADIUS, _AREA, _EX, _EY = range(11)
_COLUMNS = 11
CACHE = "ROTANEXT_NUMBA_CACHE"  # environment variable; 0: compile anew in each process
_HUGE = 2.0**127  # larger boxes have no finite area
_WORTH_A_THREAD = 1 << 14  # pairs
_FAR = 2.0**60  # cells further out are not numbered


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's compiler with its code kept on disk, or without where no folder can be written to or the variable `CACHE` is 0."""
    cache = os.environ.get(CACHE, "1") != "0"
    try:
        compiled: Callable[..., Any] = numba.njit(function, cache=cache, nogil=True, error_model="numpy")
    except RuntimeError:  # "no locator available": neither this package's folder nor the user's cache can be written
        compiled = numba.njit(function, nogil=True, error_model="numpy")
    return compiled


@_jit
def _prepare(boxes: np.ndarray) -> np.ndarray:
    """Prepared boxes `[N, 11]` of `boxes [N, 5]`."""
    out = np.empty((len(boxes), _COLUMNS))
    for i in range(len(boxes)):
        w, h, angle = boxes[i, 2] / 2, boxes[i, 3] / 2, boxes[i, 4]
        cos, sin = math.cos(angle), math.sin(angle)
        out[i, _X], out[i, _Y], out[i, _W], out[i, _H] = boxes[i, 0], boxes[i, 1], w, h
        out[i, _COS], out[i, _SIN], out[i, _ANGLE] = cos, sin, angle
        out[i, _RADIUS] = math.sqrt(w * w + h * h)
        out[i, _AREA] = boxes[i, 2] * boxes[i, 3] if w > 0.0 and h > 0.0 else 0.0
        out[i, _EX] = abs(w * cos) + abs(h * sin)
        out[i, _EY] = abs(w * sin) + abs(h * cos)
    return out


@_jit
def _limit(value: float, low: float, high: float) -> float:
    return low if value < low else (high if value > high else value)


@_jit
def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    """Area shared by two prepared boxes: the outline of a, clamped in the frame of b (see reference.py)."""
    dx, dy = a[_X] - b[_X], a[_Y] - b[_Y]
    cx, cy = dx * b[_COS] + dy * b[_SIN], dy * b[_COS] - dx * b[_SIN]
    turn = a[_ANGLE] - b[_ANGLE]
    if turn == 0.0:
        cos, sin = 1.0, 0.0
    else:
        cos, sin = a[_COS] * b[_COS] + a[_SIN] * b[_SIN], a[_SIN] * b[_COS] - a[_COS] * b[_SIN]
    wx, wy, hx, hy = a[_W] * cos, a[_W] * sin, -a[_H] * sin, a[_H] * cos
    limit_x, limit_y = b[_W], b[_H]
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


@_jit
def _ratio(a: np.ndarray, b: np.ndarray, iof: bool) -> float:
    """IoU of two prepared boxes, or intersection over the first one's area."""
    if not (a[_AREA] > 0.0 and b[_AREA] > 0.0 and math.isfinite(a[_AREA] + b[_AREA])):
        return 0.0
    smaller = min(a[_AREA], b[_AREA])
    shared = min(_intersection(a, b), smaller)
    if shared < ROUNDING * smaller:
        return 0.0
    whole = a[_AREA] if iof else a[_AREA] + b[_AREA] - shared
    value = shared / whole
    return value if math.isfinite(value) else 0.0


@_jit
def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the bounding rectangles and circles of two prepared boxes meet."""
    dx, dy, reach = abs(a[_X] - b[_X]), abs(a[_Y] - b[_Y]), a[_RADIUS] + b[_RADIUS]
    return dx <= a[_EX] + b[_EX] and dy <= a[_EY] + b[_EY] and dx * dx + dy * dy <= reach * reach


@_jit
def _pairs(first: np.ndarray, second: np.ndarray, iof: bool, out: np.ndarray) -> None:
    for k in range(len(out)):
        out[k] = _ratio(first[k], second[k], iof) if _meet(first[k], second[k]) else 0.0


@_jit
def _matrix(first: np.ndarray, second: np.ndarray, iof: bool, out: np.ndarray) -> None:
    for i in range(len(out)):
        for j in range(out.shape[1]):
            out[i, j] = _ratio(first[i], second[j], iof) if _meet(first[i], second[j]) else 0.0


def _in_parts(work: Callable[[slice], None], length: int, cost: int) -> None:
    """Do the work on parts of `range(length)`, in as many threads as torch uses if there is enough of it.

    The kernels let go of the interpreter's lock. numba's own threads are left alone: they would change the number torch computes
    with, and the two would wait for each other.
    """
    threads = min(torch.get_num_threads(), length, cost // _WORTH_A_THREAD)
    if threads <= 1:
        work(slice(0, length))
        return
    parts = 4 * threads  # smaller than a thread's share, as their costs differ
    edges = [length * k // parts for k in range(parts + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, slice(start, end)) for start, end in pairwise(edges)]:
            done.result()


def iou_pairs(a: np.ndarray, b: np.ndarray, iof: bool) -> np.ndarray:
    """IoU `[K]` of paired boxes `[K, 5]` float64."""
    first, second, out = _prepare(a), _prepare(b), np.empty(len(a))
    _in_parts(lambda part: _pairs(first[part], second[part], iof, out[part]), len(a), len(a))
    return out


def iou_matrix(a: np.ndarray, b: np.ndarray, iof: bool) -> np.ndarray:
    """IoU `[N, M]` of boxes `[N, 5]` and `[M, 5]` float64."""
    first, second, out = _prepare(a), _prepare(b), np.empty((len(a), len(b)))
    _in_parts(lambda part: _matrix(first[part], second, iof, out[part]), len(a), out.size)
    return out


@_jit
def _cannot_exceed(a: np.ndarray, b: np.ndarray, threshold: float) -> bool:
    """Whether bounding rectangles and areas alone show that the IoU is at most `threshold`, with room for rounding."""
    wide = min(a[_X] + a[_EX], b[_X] + b[_EX]) - max(a[_X] - a[_EX], b[_X] - b[_EX])
    high = min(a[_Y] + a[_EY], b[_Y] + b[_EY]) - max(a[_Y] - a[_EY], b[_Y] - b[_EY])
    if wide <= 0.0 or high <= 0.0:
        return True
    shared = min(wide * high, a[_AREA], b[_AREA]) * (1 + 1e-9)
    return shared <= threshold * (a[_AREA] + b[_AREA] - shared)


@_jit
def _sweep(boxes: np.ndarray, start: int, end: int, threshold: float, keep: np.ndarray, order: np.ndarray) -> None:
    """Greedy NMS of the boxes `order[start:end]`, best first; marks the kept ones in `keep`."""
    # Levels: boxes whose radius lies within a factor of two. Each level has a hash grid with cells of its largest diameter, so
    # a box meets few of them unless it is much larger.
    n = end - start
    level = np.empty(n, np.int64)
    seen = np.zeros(256, np.bool_)
    for k in range(n):
        radius = boxes[order[start + k], _RADIUS]
        usable = 0.0 < radius < _HUGE
        usable = usable and math.isfinite(boxes[order[start + k], _X]) and math.isfinite(boxes[order[start + k], _Y])
        level[k] = max(0, math.frexp(radius)[1] + 128) if usable else -1
        if usable:
            seen[level[k]] = True
    size = 1
    while size < 2 * n:
        size *= 2
    head = np.full(size, -1, np.int64)  # of the chain of kept boxes in a slot
    following = np.full(n, -1, np.int64)
    cell_x, cell_y = np.empty(n, np.int64), np.empty(n, np.int64)
    kept_of_level = np.zeros(256, np.int64)
    newest = np.full(256, -1, np.int64)  # chains of all kept boxes of a level, where looking at cells would cost more
    older = np.full(n, -1, np.int64)
    for k in range(n):
        i = order[start + k]
        if level[k] < 0:  # no area, or not finite: overlaps nothing
            keep[i] = True
            continue
        box = boxes[i]
        alive = True
        for other_level in range(256):
            if not alive:
                break
            if not seen[other_level] or kept_of_level[other_level] == 0:
                continue
            cell = 2.0 * math.ldexp(1.0, other_level - 128)
            reach_x, reach_y = box[_EX] + cell / 2, box[_EY] + cell / 2
            low_x, high_x = math.floor((box[_X] - reach_x) / cell), math.floor((box[_X] + reach_x) / cell)
            low_y, high_y = math.floor((box[_Y] - reach_y) / cell), math.floor((box[_Y] + reach_y) / cell)
            far = max(abs(low_x), abs(high_x), abs(low_y), abs(high_y)) > _FAR
            if far or (high_x - low_x + 1.0) * (high_y - low_y + 1.0) > kept_of_level[other_level]:
                at = newest[other_level]
                while at >= 0:
                    other = boxes[order[start + at]]
                    if not _cannot_exceed(other, box, threshold) and _ratio(other, box, False) > threshold:
                        alive = False
                        break
                    at = older[at]
                continue
            for gx in range(int(low_x), int(high_x) + 1):
                if not alive:
                    break
                for gy in range(int(low_y), int(high_y) + 1):
                    if not alive:
                        break
                    at = head[_slot(gx, gy, other_level, size)]
                    while at >= 0:
                        if cell_x[at] == gx and cell_y[at] == gy and level[at] == other_level:
                            other = boxes[order[start + at]]
                            if not _cannot_exceed(other, box, threshold) and _ratio(other, box, False) > threshold:
                                alive = False
                                break
                        at = following[at]
        if alive:
            keep[i] = True
            own = level[k]
            cell = 2.0 * math.ldexp(1.0, own - 128)
            x, y = math.floor(box[_X] / cell), math.floor(box[_Y] / cell)
            if max(abs(x), abs(y)) <= 2 * _FAR:
                cell_x[k], cell_y[k] = int(x), int(y)
                slot = _slot(cell_x[k], cell_y[k], own, size)
                following[k] = head[slot]
                head[slot] = k
            older[k] = newest[own]
            newest[own] = k
            kept_of_level[own] += 1


@_jit
def _slot(x: int, y: int, level: int, size: int) -> int:
    """Slot of a cell in the hash table; `size` is a power of two."""
    mixed = np.uint64(x) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F) ^ np.uint64(level)
    mixed ^= mixed >> np.uint64(29)
    return int(mixed & np.uint64(size - 1))


@_jit
def nms(boxes: np.ndarray, order: np.ndarray, starts: np.ndarray, threshold: float) -> np.ndarray:
    """Mask `[N]` of the kept boxes `[N, 5]` float64.

    `order` lists box indices segment by segment (one a class), each best first; segment s is `order[starts[s]:starts[s + 1]]`.
    """
    prepared = _prepare(boxes)
    keep = np.zeros(len(boxes), np.bool_)
    for segment in range(len(starts) - 1):
        _sweep(prepared, starts[segment], starts[segment + 1], threshold, keep, order)
    return keep
