"""The operators for tensors on a CUDA device, in Triton: the formulas of reference.py in float64.

Nothing is copied to the host, but NMS waits for the number of boxes it keeps, and leaves more than 32,768 of them to the CPU.

Near pairs are listed first and computed exactly afterwards, so that the dear arithmetic is spent on boxes that can overlap. Every
list has room for all pairs of the rows it serves. The kernels run on the CPU, too, under TRITON_INTERPRET=1.
"""

# Kernels are written in Triton's language, whose values have no Python types.
# mypy: disable-error-code="no-untyped-def,attr-defined,operator"

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotanext.ops import cpu, cuda_dynamic
from rotanext.ops.reference import ROUNDING

_COLUMNS = tl.constexpr(11)
_ROUNDING = tl.constexpr(ROUNDING)
_PAIRS_AT_ONCE = 1 << 24
_MOST_BOXES = 1 << 15  # of NMS; more need too large a mask (n * n / 8 bytes), and go to the CPU
_TILE = 32
_WORKERS = 512
_BLOCK = 256
_SCAN_BLOCK = 512  # words of 32 boxes
_log = logging.getLogger("rotanext")
_EXACT = {"enable_fp_fusion": False}  # the same rounding as on the CPU


@triton.jit
def _prepare_kernel(boxes, order, out, n, ordered: tl.constexpr, block: tl.constexpr):
    """Prepared boxes `[N, 11]` (see cpu_iou.py for the idea): x, y, extents, area, radius, half sides, cosine, sine, angle."""
    k = tl.program_id(0) * block + tl.arange(0, block)
    inside = k < n
    source = tl.load(order + k, mask=inside, other=0) if ordered else k.to(tl.int64)
    x = tl.load(boxes + source * 5, mask=inside, other=0.0).to(tl.float64)
    y = tl.load(boxes + source * 5 + 1, mask=inside, other=0.0).to(tl.float64)
    width = tl.load(boxes + source * 5 + 2, mask=inside, other=0.0).to(tl.float64)
    height = tl.load(boxes + source * 5 + 3, mask=inside, other=0.0).to(tl.float64)
    angle = tl.load(boxes + source * 5 + 4, mask=inside, other=0.0).to(tl.float64)
    w, h, cos, sin = width / 2, height / 2, tl.cos(angle), tl.sin(angle)
    area = tl.where((w > 0) & (h > 0), width * height, 0.0)
    row = out + k.to(tl.int64) * _COLUMNS
    tl.store(row, x, mask=inside)
    tl.store(row + 1, y, mask=inside)
    tl.store(row + 2, tl.abs(w * cos) + tl.abs(h * sin), mask=inside)
    tl.store(row + 3, tl.abs(w * sin) + tl.abs(h * cos), mask=inside)
    tl.store(row + 4, area, mask=inside)
    tl.store(row + 5, tl.sqrt(w * w + h * h), mask=inside)
    tl.store(row + 6, w, mask=inside)
    tl.store(row + 7, h, mask=inside)
    tl.store(row + 8, cos, mask=inside)
    tl.store(row + 9, sin, mask=inside)
    tl.store(row + 10, angle, mask=inside)


@triton.jit
def _clamp(value, low, high):
    return tl.minimum(tl.maximum(value, low), high)


@triton.jit
def _edge(x0, y0, sx, sy, limit_x, limit_y):
    """Twice the area under one edge from (x0, y0) along (sx, sy), clamped to the box of the given half sides."""
    moves = sy != 0
    safe_x, safe_y = tl.where(sx != 0, sx, 1.0), tl.where(moves, sy, 1.0)
    t0, t1 = (-limit_y - y0) / safe_y, (limit_y - y0) / safe_y
    enter, leave = _clamp(tl.minimum(t0, t1), 0.0, 1.0), _clamp(tl.maximum(t0, t1), 0.0, 1.0)
    t0, t1 = (-limit_x - x0) / safe_x, (limit_x - x0) / safe_x
    bend0, bend1 = _clamp(tl.minimum(t0, t1), enter, leave), _clamp(tl.maximum(t0, t1), enter, leave)
    xa, ya = _clamp(x0 + enter * sx, -limit_x, limit_x), _clamp(y0 + enter * sy, -limit_y, limit_y)
    xb, yb = _clamp(x0 + bend0 * sx, -limit_x, limit_x), _clamp(y0 + bend0 * sy, -limit_y, limit_y)
    xc, yc = _clamp(x0 + bend1 * sx, -limit_x, limit_x), _clamp(y0 + bend1 * sy, -limit_y, limit_y)
    xd, yd = _clamp(x0 + leave * sx, -limit_x, limit_x), _clamp(y0 + leave * sy, -limit_y, limit_y)
    area = (xa + xb) * (yb - ya) + (xb + xc) * (yc - yb) + (xc + xd) * (yd - yc)
    return tl.where(moves & (leave > enter), area, 0.0)


@triton.jit
def _ratio(a, b, mask, iof: tl.constexpr):
    """IoU of prepared boxes behind the pointers a and b, or intersection over the first one's area; 0 where mask is not set."""
    ax, ay = tl.load(a, mask=mask, other=0.0), tl.load(a + 1, mask=mask, other=0.0)
    bx, by = tl.load(b, mask=mask, other=0.0), tl.load(b + 1, mask=mask, other=0.0)
    area_a, area_b = tl.load(a + 4, mask=mask, other=0.0), tl.load(b + 4, mask=mask, other=0.0)
    aw, ah = tl.load(a + 6, mask=mask, other=0.0), tl.load(a + 7, mask=mask, other=0.0)
    limit_x, limit_y = tl.load(b + 6, mask=mask, other=0.0), tl.load(b + 7, mask=mask, other=0.0)
    cos_a, sin_a = tl.load(a + 8, mask=mask, other=1.0), tl.load(a + 9, mask=mask, other=0.0)
    cos_b, sin_b = tl.load(b + 8, mask=mask, other=1.0), tl.load(b + 9, mask=mask, other=0.0)
    same = tl.load(a + 10, mask=mask, other=0.0) == tl.load(b + 10, mask=mask, other=0.0)
    dx, dy = ax - bx, ay - by
    cx, cy = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
    cos = tl.where(same, 1.0, cos_a * cos_b + sin_a * sin_b)
    sin = tl.where(same, 0.0, sin_a * cos_b - cos_a * sin_b)
    wx, wy, hx, hy = aw * cos, aw * sin, -ah * sin, ah * cos
    x0, y0 = cx - wx - hx, cy - wy - hy
    total = _edge(x0, y0, 2 * wx, 2 * wy, limit_x, limit_y)
    x0, y0 = x0 + 2 * wx, y0 + 2 * wy
    total += _edge(x0, y0, 2 * hx, 2 * hy, limit_x, limit_y)
    x0, y0 = x0 + 2 * hx, y0 + 2 * hy
    total += _edge(x0, y0, -2 * wx, -2 * wy, limit_x, limit_y)
    x0, y0 = x0 - 2 * wx, y0 - 2 * wy
    total += _edge(x0, y0, -2 * hx, -2 * hy, limit_x, limit_y)
    smaller = tl.minimum(area_a, area_b)
    shared = tl.minimum(tl.maximum(total / 2, 0.0), smaller)
    shared = tl.where(shared < _ROUNDING * smaller, 0.0, shared)
    whole = area_a if iof else area_a + area_b - shared
    valid = mask & (area_a > 0) & (area_b > 0) & (area_a + area_b < float("inf"))
    value = shared / tl.where(valid, whole, 1.0)
    return tl.where(valid & (value <= 1.0), value, 0.0)


@triton.jit
def _meet(x, y, ex, ey, radius, other_x, other_y, other_ex, other_ey, other_radius):
    """Whether bounding rectangles and circles meet; False for what is not a number."""
    dx, dy, reach = tl.abs(x - other_x), tl.abs(y - other_y), radius + other_radius
    return (dx <= ex + other_ex) & (dy <= ey + other_ey) & (dx * dx + dy * dy <= reach * reach)


@triton.jit
def _pairs_kernel(first, second, out, n, iof: tl.constexpr, block: tl.constexpr):
    k = tl.program_id(0) * block + tl.arange(0, block)
    inside = k < n
    a, b = first + k.to(tl.int64) * _COLUMNS, second + k.to(tl.int64) * _COLUMNS
    near = inside & _meet(
        tl.load(a, mask=inside, other=0.0), tl.load(a + 1, mask=inside, other=0.0), tl.load(a + 2, mask=inside, other=0.0),
        tl.load(a + 3, mask=inside, other=0.0), tl.load(a + 5, mask=inside, other=0.0),
        tl.load(b, mask=inside, other=0.0), tl.load(b + 1, mask=inside, other=0.0), tl.load(b + 2, mask=inside, other=0.0),
        tl.load(b + 3, mask=inside, other=0.0), tl.load(b + 5, mask=inside, other=0.0),
    )  # fmt: skip
    tl.store(out + k, _ratio(a, b, near, iof), mask=inside)


@triton.jit
def _near_kernel(
    first, second, labels, found, count, start, n, m,
    threshold: tl.constexpr, suppress: tl.constexpr, labelled: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """List `(i - start) * m + j` of the pairs that meet, for rows i from `start` to n.

    suppress: only pairs with i < j, of the same label, whose areas and extents allow an IoU above the threshold.
    """
    i = start + tl.program_id(1) * tile + tl.arange(0, tile)
    j = tl.program_id(0) * tile + tl.arange(0, tile)  # a launch takes far more programs along axis 0
    if suppress and (tl.program_id(0) + 1) * tile <= start + tl.program_id(1) * tile:
        return
    row, column = i < n, j < m
    a, b = first + i.to(tl.int64) * _COLUMNS, second + j.to(tl.int64) * _COLUMNS
    ax, ay = tl.load(a, mask=row, other=0.0)[:, None], tl.load(a + 1, mask=row, other=0.0)[:, None]
    aex, aey = tl.load(a + 2, mask=row, other=0.0)[:, None], tl.load(a + 3, mask=row, other=0.0)[:, None]
    bx, by = tl.load(b, mask=column, other=0.0)[None, :], tl.load(b + 1, mask=column, other=0.0)[None, :]
    bex, bey = tl.load(b + 2, mask=column, other=0.0)[None, :], tl.load(b + 3, mask=column, other=0.0)[None, :]
    a_radius, b_radius = tl.load(a + 5, mask=row, other=0.0)[:, None], tl.load(b + 5, mask=column, other=0.0)[None, :]
    near = row[:, None] & column[None, :] & _meet(ax, ay, aex, aey, a_radius, bx, by, bex, bey, b_radius)
    if suppress:
        a_area, b_area = tl.load(a + 4, mask=row, other=0.0)[:, None], tl.load(b + 4, mask=column, other=0.0)[None, :]
        wide = tl.minimum(aex + bex - tl.abs(ax - bx), 2 * tl.minimum(aex, bex))
        high = tl.minimum(aey + bey - tl.abs(ay - by), 2 * tl.minimum(aey, bey))
        shared = tl.minimum(wide * high, tl.minimum(a_area, b_area)) * (1 + 1e-9)
        near = near & (i[:, None] < j[None, :]) & (shared > threshold * (a_area + b_area - shared))
        if labelled:
            near = near & (tl.load(labels + i, mask=row, other=0)[:, None] == tl.load(labels + j, mask=column, other=0)[None, :])
    flat = tl.reshape(near, (tile * tile,)).to(tl.int32)
    code = tl.reshape((i - start)[:, None] * m + j[None, :], (tile * tile,))
    place = tl.cumsum(flat, 0) - 1
    total = tl.sum(flat, 0)
    if total > 0:
        base = tl.atomic_add(count, total)
        tl.store(found + base + place, code, mask=flat > 0)


@triton.jit
def _listed(found, k, total, start, m):
    """Row and column of the pairs that `_near_kernel` listed at places k."""
    code = tl.load(found + k, mask=k < total, other=0)
    return (start + code // m).to(tl.int64), (code % m).to(tl.int64)


@triton.jit
def _listed_iou_kernel(first, second, found, count, out, start, m, iof: tl.constexpr, block: tl.constexpr):
    """IoU of listed pairs into the matrix `out [N, M]`."""
    total = tl.load(count)
    for at in range(tl.program_id(0) * block, total, tl.num_programs(0) * block):
        k = at + tl.arange(0, block)
        i, j = _listed(found, k, total, start, m)
        value = _ratio(first + i * _COLUMNS, second + j * _COLUMNS, k < total, iof)
        tl.store(out + i * m + j, value, mask=k < total)


@triton.jit
def _listed_mask_kernel(boxes, found, count, mask, start, m, words, threshold: tl.constexpr, block: tl.constexpr):
    """Set bit j of row i of the mask for listed pairs whose IoU is above the threshold."""
    total = tl.load(count)
    for at in range(tl.program_id(0) * block, total, tl.num_programs(0) * block):
        k = at + tl.arange(0, block)
        i, j = _listed(found, k, total, start, m)
        over = _ratio(boxes + i * _COLUMNS, boxes + j * _COLUMNS, k < total, False) > threshold
        tl.atomic_or(mask + i * words + j // 32, (1 << (j % 32)).to(tl.int32), mask=over)


@triton.jit
def _scan_kernel(mask, removed, n, words, block: tl.constexpr):
    """The greedy scan by one program: 32 boxes at a time settle among themselves, then strike out what they suppress."""
    for word in range(words):
        gone = tl.load(removed + word)
        for bit in tl.static_range(32):
            box = word * 32 + bit
            row = tl.load(mask + box.to(tl.int64) * words + word, mask=box < n, other=0)
            gone = gone | tl.where((gone >> bit) & 1 == 0, row, 0)
        tl.store(removed + word, gone)
        for at in range((word + 1) // block * block, words, block):
            later = at + tl.arange(0, block)
            wanted = (later < words) & (later > word)
            struck = tl.load(removed + later, mask=wanted, other=0)
            for other in range(32):
                rival = word * 32 + other
                if (rival < n) & ((gone >> other) & 1 == 0):
                    struck = struck | tl.load(mask + rival.to(tl.int64) * words + later, mask=wanted, other=0)
            tl.store(removed + later, struck, mask=wanted)
        tl.debug_barrier()


@triton.jit
def _assign_kernel(
    anchors, objects, best_of_object, out, total, count, positive_iou, negative_iou, conclude: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """First every object's best IoU (as bits, which rise as the number does); then, to conclude, each anchor's assignment."""
    k = tl.program_id(0) * block + tl.arange(0, block)
    inside = k < total
    own = anchors + k.to(tl.int64) * _COLUMNS
    x, y = tl.load(own, mask=inside, other=0.0), tl.load(own + 1, mask=inside, other=0.0)
    ex, ey = tl.load(own + 2, mask=inside, other=0.0), tl.load(own + 3, mask=inside, other=0.0)
    radius = tl.load(own + 5, mask=inside, other=0.0)
    best, owner, claimed = tl.zeros([block], tl.float32), tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
    for g in range(count):
        box = objects + g * _COLUMNS
        near = inside & _meet(
            x, y, ex, ey, radius, tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3), tl.load(box + 5)
        )
        if tl.max(near.to(tl.int32), 0) > 0:
            value = _ratio(own, box + tl.zeros([block], tl.int32), near, False).to(tl.float32)
            if conclude:
                owner = tl.where(value > best, g, owner)
                best = tl.maximum(best, value)
                bits = tl.load(best_of_object + g)
                claimed = tl.where((value > 0) & (value.to(tl.int32, bitcast=True) == bits), g + 1, claimed)
            else:
                tl.atomic_max(best_of_object + g, tl.max(value.to(tl.int32, bitcast=True), 0))
    if conclude:
        result = tl.where(best >= positive_iou, owner + 1, tl.where(best >= negative_iou, -1, 0))
        tl.store(out + k, tl.where(claimed > 0, claimed, result).to(tl.int64), mask=inside)


def _on_its_device(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Triton launches on the current device, which need not be the tensors'."""

    @wraps(function)
    def call(boxes: Tensor, *arguments: Any, **named: Any) -> Tensor:
        with torch.cuda.device(boxes.device) if boxes.is_cuda else nullcontext():
            return function(boxes, *arguments, **named)

    return call


def _prepare(boxes: Tensor, order: Tensor | None = None) -> Tensor:
    """Prepared boxes `[N, 11]` float64, in the given order."""
    boxes = boxes.detach().contiguous()
    out = torch.empty(len(boxes), _COLUMNS.value, dtype=torch.float64, device=boxes.device)
    if len(boxes):
        grid = (triton.cdiv(len(boxes), _BLOCK),)
        _prepare_kernel[grid](boxes, boxes if order is None else order, out, len(boxes), order is not None, _BLOCK)
    return out


def _float(a: Tensor) -> torch.dtype:
    return torch.float64 if a.dtype == torch.float64 else torch.float32


@_on_its_device
def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou_pairs`."""
    out = torch.empty(len(a), dtype=_float(a), device=a.device)
    if len(a):
        grid = (triton.cdiv(len(a), _BLOCK),)
        _pairs_kernel[grid](_prepare(a), _prepare(b), out, len(a), mode == "iof", _BLOCK, **_EXACT)
    return out.to(a.dtype)


@_on_its_device
def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou`."""
    n, m = len(a), len(b)
    out = torch.zeros(n, m, dtype=_float(a), device=a.device)
    if n and m:
        first, second = _prepare(a), _prepare(b)
        for start, end, found, count in _near_pairs(first, second, None, None):
            del end
            _listed_iou_kernel[(_WORKERS,)](first, second, found, count, out, start, m, mode == "iof", _BLOCK, **_EXACT)
    return out.to(a.dtype)


def _near_pairs(
    first: Tensor, second: Tensor, labels: Tensor | None, threshold: float | None
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Lists of pairs that meet, for some rows at a time: first row, last + 1, list, its length (both on the device)."""
    n, m = len(first), len(second)
    rows = max(1, min(n, _PAIRS_AT_ONCE // m, _TILE * 65_535))
    found = torch.empty(rows * m, dtype=torch.int32, device=first.device)
    for start in range(0, n, rows):
        end = min(n, start + rows)
        count = torch.zeros(1, dtype=torch.int32, device=first.device)
        grid = (triton.cdiv(m, _TILE), triton.cdiv(end - start, _TILE))
        suppress, labelled = threshold is not None, labels is not None
        _near_kernel[grid](
            first, second, labels if labelled else count, found, count, start, end, m, threshold or 0.0, suppress, labelled, _TILE
        )
        yield start, end, found, count


@_on_its_device
def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    """See `ops.rotated_nms`."""
    n = len(boxes)
    if n > _MOST_BOXES:
        _log.info("NMS of %d boxes goes to the CPU", n)
        return cpu.rotated_nms(boxes, scores, labels, iou_threshold)
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    if n == 0:
        return order
    ranked = _prepare(boxes, order)
    words = triton.cdiv(n, 32)
    mask = torch.zeros(n, words, dtype=torch.int32, device=boxes.device)
    sorted_labels = None if labels is None else labels[order].contiguous()
    for start, _, found, count in _near_pairs(ranked, ranked, sorted_labels, iou_threshold):
        _listed_mask_kernel[(_WORKERS,)](ranked, found, count, mask, start, n, words, iou_threshold, _BLOCK, **_EXACT)
    removed = torch.zeros(words, dtype=torch.int32, device=boxes.device)
    _scan_kernel[(1,)](mask, removed, n, words, _SCAN_BLOCK)
    bits = torch.arange(32, dtype=torch.int32, device=boxes.device)
    gone = (removed[:, None] >> bits & 1).flatten()[:n]
    return order[gone == 0]


@_on_its_device
def assign_anchors(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float, layout: Sequence[int] = ()) -> Tensor:
    """See `ops.assign_anchors`; IoUs are compared in float32. Fast where neighbours in the list are neighbours in the image."""
    out = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    if len(anchors) and len(boxes):
        prepared, objects = _prepare(anchors), _prepare(boxes)
        best_of_object = torch.zeros(len(boxes), dtype=torch.int32, device=anchors.device)
        grid = (triton.cdiv(len(anchors), _BLOCK),)
        limits = [float(torch.tensor(value, dtype=torch.float32)) for value in (positive_iou, negative_iou)]
        for conclude in (False, True):
            _assign_kernel[grid](
                prepared, objects, best_of_object, out, len(anchors), len(boxes), *limits, conclude, _BLOCK, **_EXACT
            )
    return out


def assign_dynamic(
    points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """See `ops.assign_dynamic`."""
    return cuda_dynamic.assign_dynamic(rotated_iou, rotated_iou_pairs, points, strides, boxes, logits, objects, labels)
