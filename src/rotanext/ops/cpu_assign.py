"""Assignment for the CPU in numba: each object looks only at the anchors of the grid around it.

An anchor matters to an object if their IoU can reach `negative_iou`, or if it is among that object's best. So the anchors around
an object are visited once, skipping all whose area or extent rules `negative_iou` out. Only an object that has found none is shown
them again, this time skipping those that cannot reach the best found so far.
"""

from collections.abc import Sequence

import numpy as np
import torch

from rotanext.ops.cpu_iou import (
    ANGLE,
    AREA,
    COLUMNS,
    COS,
    EX,
    EY,
    RADIUS,
    SIN,
    H,
    W,
    X,
    Y,
    meet,
    prepare,
    ratio,
)
from rotanext.ops.jit import in_parts, jit, operator

_OBJECTS_WORTH_A_THREAD = 1 << 11  # their cost, in pairs, as `in_parts` counts it


@jit
def _prepare_one(anchors: np.ndarray, i: int, out: np.ndarray) -> None:
    """Anchor i as a prepared box in `out`, which holds another one; few angles occur, so sine and cosine are mostly at hand."""
    if anchors[i, 4] != out[ANGLE]:
        out[ANGLE] = anchors[i, 4]
        out[COS], out[SIN] = np.cos(out[ANGLE]), np.sin(out[ANGLE])
    w, h = np.float64(anchors[i, 2]), np.float64(anchors[i, 3])
    out[X], out[Y], out[W], out[H], out[AREA] = anchors[i, 0], anchors[i, 1], w / 2, h / 2, w * h
    out[EX] = abs(out[W] * out[COS]) + abs(out[H] * out[SIN])
    out[EY] = abs(out[W] * out[SIN]) + abs(out[H] * out[COS])
    out[RADIUS] = np.sqrt(out[W] * out[W] + out[H] * out[H])


@jit
def _reaches(a: np.ndarray, b: np.ndarray, least: float) -> bool:
    """Whether two prepared boxes overlap by their extents, and areas and extents leave an IoU of `least` possible."""
    wide = min(a[EX] + b[EX] - abs(a[X] - b[X]), 2 * a[EX], 2 * b[EX])
    high = min(a[EY] + b[EY] - abs(a[Y] - b[Y]), 2 * a[EY], 2 * b[EY])
    if wide <= 0.0 or high <= 0.0:
        return False
    shared = min(wide * high, a[AREA], b[AREA]) * (1 + 1e-6)  # room for rounding to float32
    return shared >= least * (a[AREA] + b[AREA] - shared)


@jit
def _span(centre: float, reach: float, stride: float, length: int) -> tuple[int, int]:
    """First and last + 1 of the positions `0, stride, ...` within reach of a centre, with one to spare."""
    low, high = (centre - reach) / stride - 1.0, (centre + reach) / stride + 2.0
    return int(max(0.0, min(low, float(length)))), int(max(0.0, min(high, float(length))))


@jit
def _visit(
    anchors: np.ndarray,
    layout: np.ndarray,
    box: np.ndarray,
    least: float,
    refine: bool,
    found: np.ndarray,
    values: np.ndarray,
) -> tuple[int, float]:
    """Pairs of one object: how many anchors went to `found` (with their IoU to `values`), and the best IoU.

    Of anchors that overlap it: all that reach `least`, or, to refine, all that equal the best.
    """
    count, best, first = 0, 0.0, 0
    anchor = np.zeros(COLUMNS)
    anchor[COS] = 1.0
    for level in range(len(layout)):
        height, width, per_position = layout[level, 0], layout[level, 1], layout[level, 3]
        stride = np.float64(layout[level, 2])
        start_x, start_y = np.float64(anchors[first, 0]), np.float64(anchors[first, 1])
        reach_x, reach_y, smallest, largest = 0.0, 0.0, np.inf, 0.0
        for k in range(per_position):
            _prepare_one(anchors, first + k, anchor)
            reach_x, reach_y = (
                max(reach_x, abs(anchor[X] - start_x) + anchor[EX]),
                max(reach_y, abs(anchor[Y] - start_y) + anchor[EY]),
            )
            smallest, largest = min(smallest, anchor[AREA]), max(largest, anchor[AREA])
        low_x, high_x = _span(box[X] - start_x, reach_x + box[EX], stride, width)
        low_y, high_y = _span(box[Y] - start_y, reach_y + box[EY], stride, height)
        if not refine and (largest * 1.01 < least * box[AREA] or box[AREA] < least * smallest * 0.99):  # all too small or large
            high_y = low_y
        for row in range(low_y, high_y):
            for i in range(first + (row * width + low_x) * per_position, first + (row * width + high_x) * per_position):
                _prepare_one(anchors, i, anchor)
                if _reaches(anchor, box, max(least, best) if refine else least) and meet(anchor, box):
                    values[count] = ratio(anchor, box, False)
                    value = np.float64(values[count])  # rounded to the anchors' type, in which IoUs are compared
                    if value > best:
                        best = value
                        if refine:
                            count = 0
                    if value > 0.0 and (value == best if refine else value >= least):
                        found[count], values[count] = i, value
                        count += 1
        first += height * width * per_position
    return count, best


@jit
def _assign_part(
    anchors: np.ndarray,
    layout: np.ndarray,
    boxes: np.ndarray,
    start: int,
    end: int,
    negative_iou: float,
    best: np.ndarray,
    owner: np.ndarray,
    claimed: np.ndarray,
) -> None:
    """Objects `start` to `end`: each anchor's best IoU, the earliest object that has it, and the latest whose best it is."""
    found, values = np.empty(len(anchors), np.int64), np.empty(len(anchors), anchors.dtype)
    for g in range(start, end):
        box = boxes[g]
        usable = box[AREA] > 0.0 and np.isfinite(box[AREA]) and np.isfinite(box[X]) and np.isfinite(box[Y])
        if not (usable and np.isfinite(box[ANGLE])):
            continue
        count, best_of_object = _visit(anchors, layout, box, negative_iou, False, found, values)
        if best_of_object < negative_iou:
            count, best_of_object = _visit(anchors, layout, box, 0.0, True, found, values)
        for k in range(count):
            i = found[k]
            if values[k] > best[i]:
                best[i], owner[i] = values[k], g
            if values[k] == best_of_object:
                claimed[i] = g + 1


@jit
def _conclude(
    best: np.ndarray, owner: np.ndarray, claimed: np.ndarray, positive_iou: float, negative_iou: float, out: np.ndarray
) -> None:
    """Join the parts `[P, A]`, which hold rising ranges of objects, into the assignment `[A]`."""
    for i in range(len(out)):
        value, of, last = best[0, i], owner[0, i], claimed[0, i]
        for part in range(1, len(best)):
            if best[part, i] > value:
                value, of = best[part, i], owner[part, i]
            last = max(last, claimed[part, i])
        if last > 0:
            out[i] = last
        elif value >= positive_iou:
            out[i] = of + 1
        elif value >= negative_iou:
            out[i] = -1
        else:
            out[i] = 0


@operator
def assign_anchors(
    anchors: np.ndarray, boxes: np.ndarray, positive_iou: float, negative_iou: float, levels: Sequence[int]
) -> np.ndarray:
    """Assignment `[A]` int64 of anchors `[A, 5]` (float32 or float64) to boxes `[G, 5]` float64; see `ops.assign_anchors`.

    Anchors without a layout count as those of a single position, which makes every object look at all of them.
    """
    prepared, layout = prepare(boxes), np.array(levels or [1, 1, 1, len(anchors)], np.int64).reshape(-1, 4)
    layout = layout[layout.prod(1) > 0]
    parts = max(1, min(torch.get_num_threads(), len(boxes), 8))
    best = np.zeros((parts, len(anchors)), anchors.dtype)
    owner, claimed = np.zeros((parts, len(anchors)), np.int32), np.zeros((parts, len(anchors)), np.int32)
    edges = [len(boxes) * k // parts for k in range(parts + 1)]
    limit = float(anchors.dtype.type(negative_iou))

    def work(part: slice) -> None:
        for k in range(part.start, part.stop):
            _assign_part(anchors, layout, prepared, edges[k], edges[k + 1], limit, best[k], owner[k], claimed[k])

    in_parts(work, parts, _OBJECTS_WORTH_A_THREAD * len(boxes))
    out = np.empty(len(anchors), np.int64)
    _conclude(best, owner, claimed, float(anchors.dtype.type(positive_iou)), limit, out)
    return out
