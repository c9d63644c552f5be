"""Dynamic assignment for the CPU in numba: each object looks only at the points around it.

Points that lie together form blocks, with bounds of their places and of the boxes they predict. An object visits the blocks whose
boxes it can overlap, and computes an IoU where one as high as the two rectangles allow would change its choice. Pairs that do not
overlap cost at least -3 ln(1e-7) = 48.4, and ten times more at every stride: an object looks for those only as far as the dearest
point it has so far allows, and a contested point looks for the cheapest of all objects likewise.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rotanext.ops.cpu_iou import AREA, COS, EX, EY, RADIUS, SIN, H, W, X, Y, meet, prepare, ratio
from rotanext.ops.dynamic import CENTRE_RADIUS, INNER_MARGIN, IOU_EPSILON, IOU_WEIGHT, LEAST_IOU, TOP_IOUS, class_costs
from rotanext.ops.jit import in_parts, jit, jit_inline, operator

_CELL = 8  # strides: the points of a block share a square of such a side
_BLOCK = 64  # points of a block at most
_WORK = 1 << 8  # what an object costs, in pairs, as `in_parts` counts it
_APART = -IOU_WEIGHT * math.log(IOU_EPSILON)  # the least cost of a pair that does not overlap
_BINS = 64
_ROOM = 1e-6  # by which bounds give way to rounding, as a share and as a cost
# Columns of a block: first point and last + 1; least and greatest x and y of its points, and of its boxes; its largest stride.
_FIRST, _END, _LEFT, _RIGHT, _TOP, _BOTTOM, _BOX_LEFT, _BOX_RIGHT, _BOX_TOP, _BOX_BOTTOM, _STRIDE = range(11)


class _Points(NamedTuple):
    """Candidates, block by block."""

    places: np.ndarray  # [N, 3] x, y, stride
    boxes: np.ndarray  # [N, 11] that they predict, prepared
    extents: np.ndarray  # [4, N] their x, y, half extents along x and y
    numbers: np.ndarray  # [N] among all points
    blocks: np.ndarray  # [B, 11]
    nothing: np.ndarray  # [N], the others [N, C]; see `dynamic.ClassCosts`
    logits: np.ndarray
    softplus: np.ndarray
    score: np.ndarray


class _Objects(NamedTuple):
    """What there is to be found."""

    boxes: np.ndarray  # [G, 11] prepared
    centres: np.ndarray  # [G, 2]
    labels: np.ndarray  # [G]


class _Taken(NamedTuple):
    """The points that each object takes, cheapest first."""

    costs: np.ndarray  # [G, 13]
    numbers: np.ndarray  # [G, 13]
    qualities: np.ndarray  # [G, 13] IoUs
    counts: np.ndarray  # [G] how many there are


@jit
def _blocks(places: np.ndarray, boxes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Blocks `[B, 11]` of points sorted by the keys of their squares."""
    count, blocks = 0, np.empty((len(keys), 11))
    for i in range(len(keys)):
        if i == 0 or keys[i] != keys[i - 1] or i - blocks[count - 1, _FIRST] == _BLOCK:
            blocks[count, _FIRST], blocks[count, _STRIDE] = i, 0.0
            blocks[count, _LEFT:_STRIDE:2], blocks[count, _RIGHT:_STRIDE:2] = np.inf, -np.inf
            count += 1
        block, box = blocks[count - 1], boxes[i]
        block[_END], block[_STRIDE] = i + 1, max(block[_STRIDE], places[i, 2])
        block[_LEFT], block[_RIGHT] = min(block[_LEFT], places[i, 0]), max(block[_RIGHT], places[i, 0])
        block[_TOP], block[_BOTTOM] = min(block[_TOP], places[i, 1]), max(block[_BOTTOM], places[i, 1])
        if box[AREA] > 0.0 and math.isfinite(box[AREA] + box[X] + box[Y] + box[EX]):  # others overlap nothing
            block[_BOX_LEFT], block[_BOX_RIGHT] = min(block[_BOX_LEFT], box[X] - box[EX]), max(block[_BOX_RIGHT], box[X] + box[EX])
            block[_BOX_TOP], block[_BOX_BOTTOM] = min(block[_BOX_TOP], box[Y] - box[EY]), max(block[_BOX_BOTTOM], box[Y] + box[EY])
    return blocks[:count].copy()


@jit_inline
def _touches(box: np.ndarray, left: float, right: float, top: float, bottom: float) -> bool:
    """Whether a prepared box reaches into a rectangle."""
    return box[X] - box[EX] <= right and box[X] + box[EX] >= left and box[Y] - box[EY] <= bottom and box[Y] + box[EY] >= top


@jit
def _mark(places: np.ndarray, blocks: np.ndarray, objects: np.ndarray, marks: np.ndarray) -> None:
    """Set the marks `[N]` of points inside any of the prepared objects."""
    for g in range(len(objects)):
        x, y, cos, sin = objects[g, X], objects[g, Y], objects[g, COS], objects[g, SIN]
        w, h = objects[g, W] - INNER_MARGIN, objects[g, H] - INNER_MARGIN
        for b in range(len(blocks)):
            if _touches(objects[g], blocks[b, _LEFT], blocks[b, _RIGHT], blocks[b, _TOP], blocks[b, _BOTTOM]):
                for i in range(int(blocks[b, _FIRST]), int(blocks[b, _END])):
                    dx, dy = places[i, 0] - x, places[i, 1] - y
                    if abs(dx * cos + dy * sin) <= w and abs(dy * cos - dx * sin) <= h:
                        marks[i] = True


@jit_inline
def _iou(box: np.ndarray, other: np.ndarray) -> float:
    """IoU as the rule knows it, see `dynamic.known_ious`."""
    if not meet(box, other):
        return 0.0
    iou = np.float64(np.float32(ratio(box, other, False)))
    return iou if iou >= LEAST_IOU else 0.0


@jit_inline
def _strides_apart(place: np.ndarray, centre: np.ndarray) -> float:
    dx, dy = place[0] - centre[0], place[1] - centre[1]
    return math.sqrt(dx * dx + dy * dy) / place[2]


@jit_inline
def _reach(cost: float) -> float:
    """The distance in strides that alone costs so much."""
    return CENTRE_RADIUS + math.log10(max(cost, 0.0) * (1 + _ROOM) + _ROOM)


@jit_inline
def _cost(points: _Points, j: int, label: int, quality: float, distance: float) -> float:
    """Cost of a pair, see `dynamic.pair_costs`: as float32 has it, infinite where it is no number."""
    softplus, score = points.softplus[j, label], points.score[j, label]
    miss = quality - score
    classification = points.nothing[j] - softplus * (score * score) + (softplus - points.logits[j, label] * quality) * (miss * miss)
    cost = classification - IOU_WEIGHT * math.log(quality + IOU_EPSILON) + 10.0 ** (distance - CENTRE_RADIUS)
    return np.float64(np.float32(cost)) if cost == cost else np.inf


@jit
def _insert_highest(values: np.ndarray, count: int, value: float) -> int:
    """Let a value join a falling list that has room for the highest; its new length."""
    if count == len(values):
        if value <= values[-1]:
            return count
        count -= 1
    at = count
    while at > 0 and values[at - 1] < value:
        values[at] = values[at - 1]
        at -= 1
    values[at] = value
    return count + 1


@jit
def _insert_cheapest(taken: _Taken, g: int, most: int, cost: float, number: int, quality: float) -> None:
    """Let a point of finite cost join object g's `most` cheapest; of equal costs the lower number comes first."""
    costs, numbers, at = taken.costs[g], taken.numbers[g], taken.counts[g]
    if cost == np.inf:
        return
    if at == most:
        if cost > costs[at - 1] or (cost == costs[at - 1] and number > numbers[at - 1]):
            return
        at -= 1
    taken.counts[g] = at + 1
    while at > 0 and (costs[at - 1] > cost or (costs[at - 1] == cost and numbers[at - 1] > number)):
        costs[at], numbers[at], taken.qualities[g, at] = costs[at - 1], numbers[at - 1], taken.qualities[g, at - 1]
        at -= 1
    costs[at], numbers[at], taken.qualities[g, at] = cost, number, quality


@jit_inline
def _highest_iou(a: np.ndarray, b: np.ndarray) -> float:
    """An IoU that two prepared boxes cannot exceed: as if all of a's extent in b's frame were shared; below 0 if they are apart."""
    dx, dy, cos, sin = a[X] - b[X], a[Y] - b[Y], a[COS] * b[COS] + a[SIN] * b[SIN], a[SIN] * b[COS] - a[COS] * b[SIN]
    ex, ey = abs(a[W] * cos) + abs(a[H] * sin), abs(a[W] * sin) + abs(a[H] * cos)
    room = 1e-9 * (a[RADIUS] + b[RADIUS])
    wide = min(ex + b[W] - abs(dx * b[COS] + dy * b[SIN]) + room, 2 * ex, 2 * b[W])
    high = min(ey + b[H] - abs(dy * b[COS] - dx * b[SIN]) + room, 2 * ey, 2 * b[H])
    if wide < 0.0 or high < 0.0:
        return -1.0
    shared = min(wide * high, a[AREA], b[AREA]) * (1 + _ROOM)
    return shared / (a[AREA] + b[AREA] - shared)


@jit
def _near(points: _Points, box: np.ndarray, found: np.ndarray, bounds: np.ndarray) -> int:
    """List the points whose boxes can overlap a prepared box, and the highest IoUs they can have; how many there are."""
    blocks, count, near = points.blocks, 0, np.empty(_BLOCK, np.bool_)
    x, y, ex, ey = points.extents[0], points.extents[1], points.extents[2], points.extents[3]
    box_x, box_y, box_ex, box_ey = box[X], box[Y], box[EX], box[EY]
    for b in range(len(blocks)):
        if not _touches(box, blocks[b, _BOX_LEFT], blocks[b, _BOX_RIGHT], blocks[b, _BOX_TOP], blocks[b, _BOX_BOTTOM]):
            continue
        first, length = int(blocks[b, _FIRST]), int(blocks[b, _END]) - int(blocks[b, _FIRST])
        for k in range(length):  # without branches, several at a time in the processor
            j = first + k
            near[k] = (abs(x[j] - box_x) <= ex[j] + box_ex) & (abs(y[j] - box_y) <= ey[j] + box_ey)
        for k in range(length):
            if near[k]:
                bound = _highest_iou(points.boxes[first + k], box)
                if not bound < 0.0:
                    found[count], bounds[count] = first + k, bound if bound <= 1.0 else 1.0
                    count += 1
    return count


@jit
def _falling(bounds: np.ndarray, order: np.ndarray) -> None:
    """Order numbers from 0 to 1, the highest first but for differences of a 64th."""
    starts = np.zeros(_BINS + 1, np.int64)
    for bound in bounds:
        starts[_BINS - int(bound * (_BINS - 1))] += 1
    for k in range(_BINS):
        starts[k + 1] += starts[k]
    for k in range(len(bounds)):
        at = _BINS - int(bounds[k] * (_BINS - 1)) - 1
        order[starts[at]] = k
        starts[at] += 1


@jit
def _choose(points: _Points, objects: _Objects, start: int, end: int, taken: _Taken) -> None:
    """What objects `start` to `end` take."""
    most, highest = len(points.numbers), np.empty(TOP_IOUS)
    found, order, bounds, ious = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most), np.empty(most)
    for g in range(start, end):
        box, seen = objects.boxes[g], 0
        near = _near(points, box, found, bounds)
        _falling(bounds[:near], order)
        for k in order[:near]:
            ious[k] = -1.0
            if seen < TOP_IOUS or bounds[k] > highest[-1]:
                ious[k] = _iou(points.boxes[found[k]], box)
                seen = _insert_highest(highest, seen, ious[k])
        wanted = max(1, int(highest[:seen].sum()))
        _take_near(points, objects, g, wanted, found, order[:near], bounds, ious, taken)
        if taken.counts[g] < wanted or taken.costs[g, wanted - 1] > _APART * (1 - _ROOM):
            _fill(points, objects, g, wanted, taken)


@jit
def _take_near(
    points: _Points,
    objects: _Objects,
    g: int,
    wanted: int,
    found: np.ndarray,
    order: np.ndarray,
    bounds: np.ndarray,
    ious: np.ndarray,
    taken: _Taken,
) -> None:
    """Object g's cheapest among the points whose boxes overlap it; IoUs below 0 are not known yet."""
    centre, label, costs, reach = objects.centres[g], objects.labels[g], taken.costs[g], np.inf
    taken.counts[g] = 0
    for k in order:
        j, iou = found[k], ious[k]
        distance = _strides_apart(points.places[j], centre)
        if iou == 0.0 or not distance <= reach:
            continue
        if iou < 0.0:
            if reach < np.inf:
                least = 10.0 ** (distance - CENTRE_RADIUS) - IOU_WEIGHT * math.log(bounds[k] + IOU_EPSILON)
                if least > costs[wanted - 1] * (1 + _ROOM) + _ROOM:
                    continue
            iou = _iou(points.boxes[j], objects.boxes[g])
            if iou == 0.0:
                continue
        cost = _cost(points, j, label, iou, distance)
        if taken.counts[g] < wanted or cost <= costs[wanted - 1]:
            _insert_cheapest(taken, g, wanted, cost, points.numbers[j], iou)
            if taken.counts[g] == wanted:
                reach = _reach(costs[wanted - 1])


@jit
def _fill(points: _Points, objects: _Objects, g: int, wanted: int, taken: _Taken) -> None:
    """Let points whose boxes do not overlap object g join its cheapest."""
    box, centre, label, blocks = objects.boxes[g], objects.centres[g], objects.labels[g], points.blocks
    apart = np.empty(len(blocks))  # strides to a block's points at least
    for b in range(len(blocks)):
        dx = max(blocks[b, _LEFT] - centre[0], centre[0] - blocks[b, _RIGHT], 0.0)
        dy = max(blocks[b, _TOP] - centre[1], centre[1] - blocks[b, _BOTTOM], 0.0)
        apart[b] = math.sqrt(dx * dx + dy * dy) / blocks[b, _STRIDE]
    nearest = int(np.argmin(apart))
    reach = _reach(taken.costs[g, wanted - 1] - _APART) if taken.counts[g] == wanted else np.inf
    for turn in range(-1, len(blocks)):
        b = nearest if turn < 0 else turn
        if apart[b] > reach or turn == nearest:
            continue
        for j in range(int(blocks[b, _FIRST]), int(blocks[b, _END])):
            distance = _strides_apart(points.places[j], centre)
            if distance <= reach and _iou(points.boxes[j], box) == 0.0:
                _insert_cheapest(taken, g, wanted, _cost(points, j, label, 0.0, distance), points.numbers[j], 0.0)
                if taken.counts[g] == wanted:
                    reach = _reach(taken.costs[g, wanted - 1] - _APART)


@jit
def _gather(taken: _Taken, least: np.ndarray, owner: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """How many objects took each point `[P]`; the cheapest of those, its cost and IoU, go into the arrays `[P]`."""
    takers = np.zeros(len(owner), np.int64)
    for g in range(len(taken.counts)):
        for k in range(taken.counts[g]):
            number, cost = taken.numbers[g, k], taken.costs[g, k]
            if takers[number] == 0 or cost < least[number]:
                least[number], owner[number], quality[number] = cost, g, taken.qualities[g, k]
            takers[number] += 1
    return takers


@jit
def _settle(
    points: _Points,
    objects: _Objects,
    by_x: np.ndarray,
    contested: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    least: np.ndarray,
    owner: np.ndarray,
    quality: np.ndarray,
) -> None:
    """The cheapest of all objects for contested points `[K]`, instead of the one given with its cost and IoU.

    The others are among `by_x[first:end]`, those whose centre's x is near enough.
    """
    for k in range(len(contested)):
        j, reach = contested[k], _reach(least[k])
        for at in range(first[k], end[k]):
            g = by_x[at]
            distance = _strides_apart(points.places[j], objects.centres[g])
            if not distance <= reach:
                continue
            iou = _iou(points.boxes[j], objects.boxes[g])
            if iou == 0.0 and least[k] < _APART * (1 - _ROOM):
                continue
            cost = _cost(points, j, objects.labels[g], iou, distance)
            if cost < least[k] or (cost == least[k] and g < owner[k]):
                least[k], owner[k], quality[k], reach = cost, g, iou, _reach(cost)


def _squares(places: np.ndarray) -> np.ndarray:
    """Keys `[P]` of points: equal for those of a stride in one square. Others may share one: that costs only time."""
    cells = np.floor(np.nan_to_num(places[:, :2] / (_CELL * places[:, 2:]))).clip(-(1 << 15), (1 << 15) - 1).astype(np.int64)
    strides = np.nan_to_num(places[:, 2]).clip(0, 1 << 20).astype(np.int64)
    keys: np.ndarray = (strides << 32) + (cells[:, 1] << 16) + cells[:, 0]
    return keys


def _candidates(places: np.ndarray, boxes: np.ndarray, logits: Tensor, objects: np.ndarray) -> _Points:
    """The points inside any object."""
    keys = _squares(places)
    order = np.argsort(keys, kind="stable")
    places, boxes, keys = places[order], prepare(boxes[order]), keys[order]
    prepared, blocks, marks = prepare(objects), _blocks(places, boxes, keys), np.zeros(len(places), np.bool_)
    in_parts(lambda part: _mark(places, blocks, prepared[part], marks), len(objects), _WORK * len(objects))
    places, boxes, order = places[marks], boxes[marks], order[marks]
    logits = logits[torch.from_numpy(order)].double()
    classes = class_costs(logits)
    parts = classes.nothing, logits, classes.softplus, classes.score
    extents = np.ascontiguousarray(boxes[:, [X, Y, EX, EY]].T)
    return _Points(places, boxes, extents, order, _blocks(places, boxes, keys[marks]), *(part.numpy() for part in parts))


@operator
def assign_dynamic(
    places: np.ndarray, boxes: np.ndarray, logits: Tensor, plain: np.ndarray, clamped: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Index and quality `[P]` of points `[P, 3]` (x, y, stride), see `ops.assign_dynamic`; all float64, labels int64.

    boxes `[P, 5]` and clamped objects `[G, 5]` are what the IoU is computed of, plain ones lie where they lie.
    """
    index, quality, many = np.zeros(len(places), np.int64), np.zeros(len(places)), len(plain)
    points = _candidates(places, boxes, logits, plain)
    if len(points.numbers) == 0:
        return index, quality.astype(np.float32)
    objects = _Objects(prepare(clamped), np.ascontiguousarray(plain[:, :2]), labels)
    shape = many, TOP_IOUS
    taken = _Taken(np.empty(shape), np.empty(shape, np.int64), np.empty(shape), np.empty(many, np.int64))
    in_parts(lambda part: _choose(points, objects, part.start, part.stop, taken), many, _WORK * many)

    least, owner = np.full(len(index), np.inf), np.zeros(len(index), np.int64)
    takers = _gather(taken, least, owner, quality)
    contested = np.nonzero(takers > 1)[0]
    at = np.empty(len(index), np.int64)
    at[points.numbers] = np.arange(len(points.numbers))
    by_x = np.argsort(objects.centres[:, 0], kind="stable")
    x, all_x = places[contested, 0], objects.centres[by_x, 0]
    reach = places[contested, 2] * (CENTRE_RADIUS + np.log10(least[contested] * (1 + _ROOM) + _ROOM))
    first, end = np.searchsorted(all_x, x - reach, "left"), np.searchsorted(all_x, x + reach, "right")
    arrays = at[contested], first, end, least[contested], owner[contested], quality[contested]
    in_parts(
        lambda part: _settle(points, objects, by_x, *(array[part] for array in arrays)), len(contested), _WORK * len(contested)
    )
    owner[contested], quality[contested] = arrays[4], arrays[5]
    index[takers > 0] = owner[takers > 0] + 1
    return index, quality.astype(np.float32)
