"""IoU of paired boxes and its gradients on a CUDA device, in Triton; and what the kernels of cuda.py share of boxes.

The formulas of reference.py in float64. The kernels run on the CPU, too, under TRITON_INTERPRET=1.
"""

# Kernels are written in Triton's language, whose values have no Python types.
# mypy: disable-error-code="no-untyped-def,attr-defined,operator"

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotanext.ops.reference import ROUNDING

COLUMNS = tl.constexpr(11)
ROUNDING_SHARE = tl.constexpr(ROUNDING)
BLOCK = 256
EXACT = {"enable_fp_fusion": False}  # the same rounding as on the CPU


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
    row = out + k.to(tl.int64) * COLUMNS
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
def _relative(a, b, mask):
    """Centre of prepared boxes a in the frame of b, cosine and sine of the turn from b to a: exactly 1 and 0 for equal angles."""
    dx = tl.load(a, mask=mask, other=0.0) - tl.load(b, mask=mask, other=0.0)
    dy = tl.load(a + 1, mask=mask, other=0.0) - tl.load(b + 1, mask=mask, other=0.0)
    cos_a, sin_a = tl.load(a + 8, mask=mask, other=1.0), tl.load(a + 9, mask=mask, other=0.0)
    cos_b, sin_b = tl.load(b + 8, mask=mask, other=1.0), tl.load(b + 9, mask=mask, other=0.0)
    same = tl.load(a + 10, mask=mask, other=0.0) == tl.load(b + 10, mask=mask, other=0.0)
    cos = tl.where(same, 1.0, cos_a * cos_b + sin_a * sin_b)
    sin = tl.where(same, 0.0, sin_a * cos_b - cos_a * sin_b)
    return dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b, cos, sin


@triton.jit
def _shared(cx, cy, aw, ah, cos, sin, bw, bh):
    """Area that boxes share, in the frame of the second: centre, half sides and turn of the first, half sides of the second."""
    wx, wy, hx, hy = aw * cos, aw * sin, -ah * sin, ah * cos
    x0, y0 = cx - wx - hx, cy - wy - hy
    total = _edge(x0, y0, 2 * wx, 2 * wy, bw, bh)
    x0, y0 = x0 + 2 * wx, y0 + 2 * wy
    total += _edge(x0, y0, 2 * hx, 2 * hy, bw, bh)
    x0, y0 = x0 + 2 * hx, y0 + 2 * hy
    total += _edge(x0, y0, -2 * wx, -2 * wy, bw, bh)
    x0, y0 = x0 - 2 * wx, y0 - 2 * wy
    total += _edge(x0, y0, -2 * hx, -2 * hy, bw, bh)
    return tl.maximum(total / 2, 0.0)


@triton.jit
def ratio(a, b, mask, iof: tl.constexpr):
    """IoU of prepared boxes behind the pointers a and b, or intersection over the first one's area; 0 where mask is not set."""
    area_a, area_b = tl.load(a + 4, mask=mask, other=0.0), tl.load(b + 4, mask=mask, other=0.0)
    aw, ah = tl.load(a + 6, mask=mask, other=0.0), tl.load(a + 7, mask=mask, other=0.0)
    bw, bh = tl.load(b + 6, mask=mask, other=0.0), tl.load(b + 7, mask=mask, other=0.0)
    cx, cy, cos, sin = _relative(a, b, mask)
    smaller = tl.minimum(area_a, area_b)
    shared = tl.minimum(_shared(cx, cy, aw, ah, cos, sin, bw, bh), smaller)
    shared = tl.where(shared < ROUNDING_SHARE * smaller, 0.0, shared)
    whole = area_a if iof else area_a + area_b - shared
    valid = mask & (area_a > 0) & (area_b > 0) & (area_a + area_b < float("inf"))
    value = shared / tl.where(valid, whole, 1.0)
    return tl.where(valid & (value <= 1.0), value, 0.0)


@triton.jit
def meet(x, y, ex, ey, radius, other_x, other_y, other_ex, other_ey, other_radius):
    """Whether bounding rectangles and circles meet; False for what is not a number."""
    dx, dy, reach = tl.abs(x - other_x), tl.abs(y - other_y), radius + other_radius
    return (dx <= ex + other_ex) & (dy <= ey + other_ey) & (dx * dx + dy * dy <= reach * reach)


@triton.jit
def _pair_meets(a, b, inside):
    """`meet` of prepared boxes behind the pointers a and b; False where `inside` is not set."""
    return inside & meet(
        tl.load(a, mask=inside, other=0.0), tl.load(a + 1, mask=inside, other=0.0), tl.load(a + 2, mask=inside, other=0.0),
        tl.load(a + 3, mask=inside, other=0.0), tl.load(a + 5, mask=inside, other=0.0),
        tl.load(b, mask=inside, other=0.0), tl.load(b + 1, mask=inside, other=0.0), tl.load(b + 2, mask=inside, other=0.0),
        tl.load(b + 3, mask=inside, other=0.0), tl.load(b + 5, mask=inside, other=0.0),
    )  # fmt: skip


@triton.jit
def _pairs_kernel(first, second, out, n, iof: tl.constexpr, block: tl.constexpr):
    k = tl.program_id(0) * block + tl.arange(0, block)
    inside = k < n
    a, b = first + k.to(tl.int64) * COLUMNS, second + k.to(tl.int64) * COLUMNS
    tl.store(out + k, ratio(a, b, _pair_meets(a, b, inside), iof), mask=inside)


@triton.jit
def _between(low, high, share, start, step, limit):
    """Narrow the part of an edge, `low` to `high`, to where `start + t * step` is within the limit; on the limit it counts half."""
    moves, away = step != 0, tl.abs(start)
    safe = tl.where(moves, step, 1.0)
    t0, t1 = (-limit - start) / safe, (limit - start) / safe
    beside = tl.where(away < limit, 1.0, tl.where(away == limit, 0.5, 0.0))
    low = tl.where(moves, tl.maximum(low, tl.minimum(t0, t1)), low)
    high = tl.where(moves, tl.minimum(high, tl.maximum(t0, t1)), high)
    return low, high, tl.where(moves, share, share * beside)


@triton.jit
def _inside_of_edge(cx, cy, normal_x, normal_y, away, reach, limit_x, limit_y):
    """Length of an edge inside of a box, and its first moment; see `reference._inside_of_edges`."""
    low, high, share = -reach, reach, 1.0 + 0.0 * reach
    low, high, share = _between(low, high, share, cx + normal_x * away, -normal_y, limit_x)
    low, high, share = _between(low, high, share, cy + normal_y * away, normal_x, limit_y)
    length = share * tl.maximum(high - low, 0.0)
    return length, length * (high + low) / 2


@triton.jit
def _store_gradient(out, a, b, mask, stored, upstream, by_shared, by_area, limit: tl.constexpr):
    """Write the gradients by prepared boxes a; by_area is 0 where the area of a does not count."""
    aw, ah = tl.load(a + 6, mask=mask, other=0.0), tl.load(a + 7, mask=mask, other=0.0)
    bw, bh = tl.load(b + 6, mask=mask, other=0.0), tl.load(b + 7, mask=mask, other=0.0)
    cos_b, sin_b = tl.load(b + 8, mask=mask, other=1.0), tl.load(b + 9, mask=mask, other=0.0)
    cx, cy, cos, sin = _relative(a, b, mask)
    right, right_moment = _inside_of_edge(cx, cy, cos, sin, aw, ah, bw, bh)
    left, left_moment = _inside_of_edge(cx, cy, -cos, -sin, aw, ah, bw, bh)
    bottom, bottom_moment = _inside_of_edge(cx, cy, -sin, cos, ah, aw, bw, bh)
    top, top_moment = _inside_of_edge(cx, cy, sin, -cos, ah, aw, bw, bh)
    x, y = cos * (right - left) - sin * (bottom - top), sin * (right - left) + cos * (bottom - top)
    values = (
        by_shared * (x * cos_b - y * sin_b),
        by_shared * (x * sin_b + y * cos_b),
        by_shared * (right + left) / 2 + by_area * 2 * ah,
        by_shared * (bottom + top) / 2 + by_area * 2 * aw,
        -by_shared * (right_moment + left_moment + bottom_moment + top_moment),
    )
    for column in tl.static_range(5):
        value = values[column]
        tl.store(out + column, tl.where(mask & (tl.abs(value) <= limit), upstream * value, 0.0), mask=stored)


@triton.jit
def _gradients_kernel(first, second, upstream, of_first, of_second, n, iof: tl.constexpr, limit: tl.constexpr, block: tl.constexpr):
    """See `reference.iou_pairs_gradients`."""
    k = tl.program_id(0) * block + tl.arange(0, block)
    inside = k < n
    a, b = first + k.to(tl.int64) * COLUMNS, second + k.to(tl.int64) * COLUMNS
    area_a, area_b = tl.load(a + 4, mask=inside, other=0.0), tl.load(b + 4, mask=inside, other=0.0)
    mask = _pair_meets(a, b, inside) & (area_a > 0) & (area_b > 0) & (area_a + area_b < float("inf"))
    aw, ah = tl.load(a + 6, mask=mask, other=0.0), tl.load(a + 7, mask=mask, other=0.0)
    bw, bh = tl.load(b + 6, mask=mask, other=0.0), tl.load(b + 7, mask=mask, other=0.0)
    cx, cy, cos, sin = _relative(a, b, mask)
    shared = tl.minimum(_shared(cx, cy, aw, ah, cos, sin, bw, bh), tl.minimum(area_a, area_b))
    whole = tl.where(mask, area_a if iof else area_a + area_b - shared, 1.0)
    by_shared = 1 / whole if iof else (whole + shared) / (whole * whole)
    by_area = -shared / (whole * whole)
    gradient = tl.load(upstream + k, mask=inside, other=0.0).to(tl.float64)
    row = k.to(tl.int64) * 5
    _store_gradient(of_first + row, a, b, mask, inside, gradient, by_shared, by_area, limit)
    _store_gradient(of_second + row, b, a, mask, inside, gradient, by_shared, 0.0 * by_area if iof else by_area, limit)


def on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device, which need not be the tensors'."""

    @wraps(function)
    def call(boxes: Tensor, *arguments: Any, **named: Any) -> Any:
        with torch.cuda.device(boxes.device) if boxes.is_cuda else nullcontext():
            return function(boxes, *arguments, **named)

    return call


def prepare(boxes: Tensor, order: Tensor | None = None) -> Tensor:
    """Prepared boxes `[N, 11]` float64, in the given order."""
    boxes = boxes.detach().contiguous()
    out = torch.empty(len(boxes), COLUMNS.value, dtype=torch.float64, device=boxes.device)
    if len(boxes):
        grid = (triton.cdiv(len(boxes), BLOCK),)
        _prepare_kernel[grid](boxes, boxes if order is None else order, out, len(boxes), order is not None, BLOCK)
    return out


def float_of(a: Tensor) -> torch.dtype:
    """The type that IoUs of boxes are written in before they get that of the boxes: there are none in half precision."""
    return torch.float64 if a.dtype == torch.float64 else torch.float32


@on_its_device
def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou_pairs`."""
    out = torch.empty(len(a), dtype=float_of(a), device=a.device)
    if len(a):
        grid = (triton.cdiv(len(a), BLOCK),)
        _pairs_kernel[grid](prepare(a), prepare(b), out, len(a), mode == "iof", BLOCK, **EXACT)
    return out.to(a.dtype)


@on_its_device
def iou_pairs_gradients(a: Tensor, b: Tensor, gradient: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """See `reference.iou_pairs_gradients`."""
    of_a, of_b = (torch.empty(len(a), 5, dtype=float_of(a), device=a.device) for _ in range(2))
    if len(a):
        grid = (triton.cdiv(len(a), BLOCK),)
        upstream, limit = gradient.contiguous(), torch.finfo(a.dtype).max
        _gradients_kernel[grid](prepare(a), prepare(b), upstream, of_a, of_b, len(a), mode == "iof", limit, BLOCK, **EXACT)
    return of_a.to(a.dtype), of_b.to(b.dtype)
