"""Rotated NMS for the CPU in numba: exact greedy suppression whose cost follows the number of boxes near each other.

Kept boxes lie in a grid, so that a box looks only at the better ones around it. The sequential part is small: boxes come in blocks,
best first; all of a block are held against what earlier blocks kept, in several threads, and what remains is settled in order.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from rotanext.ops.cpu_iou import AREA, COLUMNS, COS, EX, EY, RADIUS, SIN, H, W, X, Y, prepare, ratio
from rotanext.ops.jit import jit, jit_inline, operator, pool

_LEVELS = 128  # of box sizes, a factor of four each
_HUGE = 2.0**127  # radius of the largest boxes that have a level; in float32 larger ones have no finite area
_FAR = 2.0**60  # cells further out are not numbered
_FIRST_BLOCK = 1024
_WORTH_THREADS = 30_000  # boxes


class Grid(NamedTuple):
    """The kept boxes by size and place, numbered as they were kept: the better, the lower.

    Boxes of a level have radii within a factor of four; cells are as wide as the largest of them may be. All chains run from the
    newest to the oldest, that is from worse to better ones.
    """

    boxes: np.ndarray  # [N, 11] the kept ones, prepared
    total: np.ndarray  # [1] how many are kept
    head: np.ndarray  # [2^k] the newest box of a slot of the hash table of cells, or -1
    behind: np.ndarray  # [N] the next in its slot
    newest: np.ndarray  # [levels] the newest box of a level, or -1
    older: np.ndarray  # [N] the next in its level
    kept: np.ndarray  # [levels] how many are kept
    levels: np.ndarray  # [2] the first level that holds any, and the last + 1
    reach: np.ndarray  # [levels, 2] largest half extents of the kept ones along x and y


@jit_inline
def _level_of(box: np.ndarray) -> int:
    """Level of a prepared box; -1 for one that overlaps nothing (no area, or not finite)."""
    usable = 0.0 < box[RADIUS] < _HUGE and box[AREA] > 0.0 and math.isfinite(box[X] + box[Y] + box[EX] + box[EY])
    return max(0, (math.frexp(box[RADIUS])[1] + 128) // 2) if usable else -1


@jit_inline
def _cell_side(level: int) -> float:
    return 2 * math.ldexp(1.0, 2 * level + 1 - 128)


@jit
def _empty_grid(n: int) -> Grid:
    size = 1
    while size < 2 * n:
        size *= 2
    chain, none = np.full(n, -1, np.int32), np.full(_LEVELS, -1, np.int32)
    rows, reach = np.empty((n, COLUMNS)), np.zeros((_LEVELS, 2))
    counts = np.zeros(_LEVELS, np.int64)
    return Grid(
        rows, np.zeros(1, np.int64), np.full(size, -1, np.int32), chain, none, chain.copy(), counts, np.array([_LEVELS, 0]), reach
    )


@jit_inline
def _slot(x: int, y: int, level: int, size: int) -> int:
    """Slot of a cell in the hash table; `size` is a power of two."""
    mixed = np.uint64(x) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F) ^ np.uint64(level)
    mixed ^= mixed >> np.uint64(29)
    return int(mixed & np.uint64(size - 1))


@jit_inline
def _any_over(boxes: np.ndarray, box: np.ndarray, at: int, since: int, following: np.ndarray, threshold: float) -> bool:
    """Whether a box overlaps one of the chain that starts at `at` by more than the threshold; only those kept from `since` on."""
    x, y, reach_x, reach_y, area = box[X], box[Y], box[EX], box[EY], box[AREA]
    own_w, own_h, own_cos, own_sin = box[W], box[H], box[COS], box[SIN]
    while at >= since:
        wide = min(reach_x + boxes[at, EX] - abs(x - boxes[at, X]), 2 * reach_x, 2 * boxes[at, EX])
        high = min(reach_y + boxes[at, EY] - abs(y - boxes[at, Y]), 2 * reach_y, 2 * boxes[at, EY])
        if wide > 0.0 and high > 0.0:
            shared = min(wide * high, area, boxes[at, AREA]) * (1 + 1e-9)  # at most, with room for rounding
            if shared > threshold * (area + boxes[at, AREA] - shared):
                dx, dy = boxes[at, X] - x, boxes[at, Y] - y
                u, v = abs(dx * own_cos + dy * own_sin), abs(dy * own_cos - dx * own_sin)
                cos = abs(boxes[at, COS] * own_cos + boxes[at, SIN] * own_sin)
                sin = abs(boxes[at, SIN] * own_cos - boxes[at, COS] * own_sin)
                spread_x, spread_y = boxes[at, W] * cos + boxes[at, H] * sin, boxes[at, W] * sin + boxes[at, H] * cos
                wide = min(spread_x + own_w - u, 2 * spread_x, 2 * own_w)
                high = min(spread_y + own_h - v, 2 * spread_y, 2 * own_h)
                shared = min(wide * high, shared) if wide > 0.0 and high > 0.0 else 0.0
                possible = shared * (1 + 2e-9) > threshold * (area + boxes[at, AREA] - shared)
                if possible and ratio(boxes[at], box, False) > threshold:
                    return True
        at = following[at]
    return False


@jit_inline
def _suppressed(grid: Grid, box: np.ndarray, since: int, threshold: float) -> bool:
    """Whether one of the boxes kept from number `since` on suppresses a box."""
    if _level_of(box) < 0:
        return False
    boxes, head, behind = grid.boxes, grid.head, grid.behind
    size = len(head)
    for level in range(grid.levels[0], grid.levels[1]):
        if grid.kept[level] == 0 or grid.newest[level] < since:
            continue
        cell = _cell_side(level)
        if cell * cell * (1 + 1e-9) <= 2 * threshold * box[AREA]:  # even a square of that radius is too small
            continue
        reach_x, reach_y = box[EX] + grid.reach[level, 0], box[EY] + grid.reach[level, 1]
        low_x, high_x = math.floor((box[X] - reach_x) / cell), math.floor((box[X] + reach_x) / cell)
        low_y, high_y = math.floor((box[Y] - reach_y) / cell), math.floor((box[Y] + reach_y) / cell)
        far = max(abs(low_x), abs(high_x), abs(low_y), abs(high_y)) > _FAR
        if far or (high_x - low_x + 1.0) * (high_y - low_y + 1.0) > grid.kept[level]:
            if _any_over(boxes, box, grid.newest[level], since, grid.older, threshold):
                return True
            continue
        for cell_x in range(int(low_x), int(high_x) + 1):
            for cell_y in range(int(low_y), int(high_y) + 1):
                at = head[_slot(cell_x, cell_y, level, size)]
                # Another cell's boxes in the same slot do no harm: they are held against the box, too.
                if at >= since and _any_over(boxes, box, at, since, behind, threshold):
                    return True
    return False


@jit
def _keep(grid: Grid, box: np.ndarray) -> None:
    """Enter a box into the grid."""
    level = _level_of(box)
    if level < 0:
        return
    number = grid.total[0]
    grid.total[0] += 1
    grid.boxes[number] = box
    cell = _cell_side(level)
    x, y = math.floor(box[X] / cell), math.floor(box[Y] / cell)
    if max(abs(x), abs(y)) <= 2 * _FAR:
        slot = _slot(int(x), int(y), level, len(grid.head))
        grid.behind[number] = grid.head[slot]
        grid.head[slot] = number
    grid.older[number] = grid.newest[level]
    grid.newest[level] = number
    grid.kept[level] += 1
    grid.levels[0], grid.levels[1] = min(grid.levels[0], level), max(grid.levels[1], level + 1)
    grid.reach[level, 0] = max(grid.reach[level, 0], box[EX])
    grid.reach[level, 1] = max(grid.reach[level, 1], box[EY])


@jit
def _check(grid: Grid, boxes: np.ndarray, start: int, end: int, threshold: float, alive: np.ndarray) -> None:
    """Hold the boxes of ranks `start` to `end` against everything kept."""
    for k in range(start, end):
        alive[k] = not _suppressed(grid, boxes[k], 0, threshold)


@jit
def _settle(grid: Grid, boxes: np.ndarray, start: int, end: int, threshold: float, alive: np.ndarray) -> None:
    """Decide, in order, about those left of a block that has been held against everything kept before it."""
    since = grid.total[0]
    for k in range(start, end):
        if alive[k]:
            alive[k] = not _suppressed(grid, boxes[k], since, threshold)
            if alive[k]:
                _keep(grid, boxes[k])


@jit
def _one_by_one(boxes: np.ndarray, starts: np.ndarray, threshold: float, alive: np.ndarray) -> None:
    """All segments, each as one block."""
    for segment in range(len(starts) - 1):
        start, end = starts[segment], starts[segment + 1]
        _settle(_empty_grid(end - start), boxes[start:end], 0, end - start, threshold, alive[start:end])


def _in_blocks(boxes: np.ndarray, threshold: float, alive: np.ndarray, threads: int) -> None:
    """One segment; each block as large as all before it together, so that few survive the parallel part of the later ones."""
    grid = _empty_grid(len(boxes))
    start, size = 0, _FIRST_BLOCK
    while start < len(boxes):
        end = min(start + size, len(boxes))
        if start:
            edges = [start + (end - start) * k // (4 * threads) for k in range(4 * threads + 1)]
            parts = [pool(threads).submit(_check, grid, boxes, low, high, threshold, alive) for low, high in pairwise(edges)]
            for part in parts:
                part.result()
        _settle(grid, boxes, start, end, threshold, alive)
        start, size = end, end


@operator
def nms(boxes: np.ndarray, order: np.ndarray, starts: np.ndarray, threshold: float) -> np.ndarray:
    """Mask `[N]` of the kept boxes `[N, 5]` float64.

    `order` lists box indices segment by segment (one a class), each best first; segment s is `order[starts[s]:starts[s + 1]]`.
    """
    ranked, alive = prepare(boxes[order]), np.ones(len(boxes), np.bool_)
    threads = torch.get_num_threads()
    large = np.diff(starts) >= _WORTH_THREADS
    if threads == 1 or not large.any():
        _one_by_one(ranked, starts, threshold, alive)
    else:
        for (start, end), is_large in zip(pairwise(starts.tolist()), large.tolist(), strict=True):
            if is_large:
                _in_blocks(ranked[start:end], threshold, alive[start:end], threads)
            else:
                _one_by_one(ranked[start:end], np.array([0, end - start]), threshold, alive[start:end])
    keep = np.empty(len(boxes), np.bool_)
    keep[order] = alive
    return keep
