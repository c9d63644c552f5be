"""The operators for tensors on a CUDA device, in Triton: the formulas of reference.py in float64.

Nothing is copied to the host, but NMS waits for the number of boxes it keeps, and leaves more than 32,768 of them to the CPU.

Near pairs are listed first and computed exactly afterwards, so that the dear arithmetic is spent on boxes that can overlap. Every
list has room for all pairs of the rows it serves. The kernels run on the CPU, too, under TRITON_INTERPRET=1.
"""

# Kernels are written in Triton's language, whose values have no Python types.
# mypy: disable-error-code="no-untyped-def,attr-defined,operator"

import logging
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotanext.ops import cpu, cuda_dynamic
from rotanext.ops.cuda_iou import (
    BLOCK,
    COLUMNS,
    EXACT,
    float_of,
    iou_pairs_gradients,
    meet,
    on_its_device,
    prepare,
    ratio,
    rotated_iou_pairs,
)

__all__ = ["assign_anchors", "assign_dynamic", "iou_pairs_gradients", "rotated_iou", "rotated_iou_pairs", "rotated_nms"]

_PAIRS_AT_ONCE = 1 << 24
_MOST_BOXES = 1 << 15  # of NMS; more need too large a mask (n * n / 8 bytes), and go to the CPU
_TILE = 32
_WORKERS = 512
_SCAN_BLOCK = 512  # words of 32 boxes
_log = logging.getLogger("rotanext")


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
    a, b = first + i.to(tl.int64) * COLUMNS, second + j.to(tl.int64) * COLUMNS
    ax, ay = tl.load(a, mask=row, other=0.0)[:, None], tl.load(a + 1, mask=row, other=0.0)[:, None]
    aex, aey = tl.load(a + 2, mask=row, other=0.0)[:, None], tl.load(a + 3, mask=row, other=0.0)[:, None]
    bx, by = tl.load(b, mask=column, other=0.0)[None, :], tl.load(b + 1, mask=column, other=0.0)[None, :]
    bex, bey = tl.load(b + 2, mask=column, other=0.0)[None, :], tl.load(b + 3, mask=column, other=0.0)[None, :]
    a_radius, b_radius = tl.load(a + 5, mask=row, other=0.0)[:, None], tl.load(b + 5, mask=column, other=0.0)[None, :]
    near = row[:, None] & column[None, :] & meet(ax, ay, aex, aey, a_radius, bx, by, bex, bey, b_radius)
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
        value = ratio(first + i * COLUMNS, second + j * COLUMNS, k < total, iof)
        tl.store(out + i * m + j, value, mask=k < total)


@triton.jit
def _listed_mask_kernel(boxes, found, count, mask, start, m, words, threshold: tl.constexpr, block: tl.constexpr):
    """Set bit j of row i of the mask for listed pairs whose IoU is above the threshold."""
    total = tl.load(count)
    for at in range(tl.program_id(0) * block, total, tl.num_programs(0) * block):
        k = at + tl.arange(0, block)
        i, j = _listed(found, k, total, start, m)
        over = ratio(boxes + i * COLUMNS, boxes + j * COLUMNS, k < total, False) > threshold
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
    own = anchors + k.to(tl.int64) * COLUMNS
    x, y = tl.load(own, mask=inside, other=0.0), tl.load(own + 1, mask=inside, other=0.0)
    ex, ey = tl.load(own + 2, mask=inside, other=0.0), tl.load(own + 3, mask=inside, other=0.0)
    radius = tl.load(own + 5, mask=inside, other=0.0)
    best, owner, claimed = tl.zeros([block], tl.float32), tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
    for g in range(count):
        box = objects + g * COLUMNS
        near = inside & meet(
            x, y, ex, ey, radius, tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3), tl.load(box + 5)
        )
        if tl.max(near.to(tl.int32), 0) > 0:
            value = ratio(own, box + tl.zeros([block], tl.int32), near, False).to(tl.float32)
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


@on_its_device
def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou`."""
    n, m = len(a), len(b)
    out = torch.zeros(n, m, dtype=float_of(a), device=a.device)
    if n and m:
        first, second = prepare(a), prepare(b)
        for start, end, found, count in _near_pairs(first, second, None, None):
            del end
            _listed_iou_kernel[(_WORKERS,)](first, second, found, count, out, start, m, mode == "iof", BLOCK, **EXACT)
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


@on_its_device
def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    """See `ops.rotated_nms`."""
    n = len(boxes)
    if n > _MOST_BOXES:
        _log.info("NMS of %d boxes goes to the CPU", n)
        return cpu.rotated_nms(boxes, scores, labels, iou_threshold)
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    if n == 0:
        return order
    ranked = prepare(boxes, order)
    words = triton.cdiv(n, 32)
    mask = torch.zeros(n, words, dtype=torch.int32, device=boxes.device)
    sorted_labels = None if labels is None else labels[order].contiguous()
    for start, _, found, count in _near_pairs(ranked, ranked, sorted_labels, iou_threshold):
        _listed_mask_kernel[(_WORKERS,)](ranked, found, count, mask, start, n, words, iou_threshold, BLOCK, **EXACT)
    removed = torch.zeros(words, dtype=torch.int32, device=boxes.device)
    _scan_kernel[(1,)](mask, removed, n, words, _SCAN_BLOCK)
    bits = torch.arange(32, dtype=torch.int32, device=boxes.device)
    gone = (removed[:, None] >> bits & 1).flatten()[:n]
    return order[gone == 0]


@on_its_device
def assign_anchors(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float, layout: Sequence[int] = ()) -> Tensor:
    """See `ops.assign_anchors`; IoUs are compared in float32. Fast where neighbours in the list are neighbours in the image."""
    out = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    if len(anchors) and len(boxes):
        prepared, objects = prepare(anchors), prepare(boxes)
        best_of_object = torch.zeros(len(boxes), dtype=torch.int32, device=anchors.device)
        grid = (triton.cdiv(len(anchors), BLOCK),)
        limits = [float(torch.tensor(value, dtype=torch.float32)) for value in (positive_iou, negative_iou)]
        for conclude in (False, True):
            _assign_kernel[grid](
                prepared, objects, best_of_object, out, len(anchors), len(boxes), *limits, conclude, BLOCK, **EXACT
            )
    return out


def assign_dynamic(
    points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """See `ops.assign_dynamic`."""
    return cuda_dynamic.assign_dynamic(rotated_iou, rotated_iou_pairs, points, strides, boxes, logits, objects, labels)
