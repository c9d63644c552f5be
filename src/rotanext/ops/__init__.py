"""Rotated operators: one public function each; the device chooses the implementation behind it.

reference.py is the readable truth, cpu.py is compiled by numba, cuda.py by Triton. torch.compile and torch.export see the operators
as `torch.ops.rotanext.*`.
"""

import importlib.util
import math
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rotanext.ops import cpu, reference
from rotanext.ops.reference import check_mode, polygon_iou, winograd_matrices

__all__ = [
    "assign_anchors",
    "assign_dynamic",
    "depthwise_weight_gradient",
    "overlapping_polygons",
    "polygon_iou",
    "rotated_iou",
    "rotated_iou_pairs",
    "rotated_nms",
    "winograd_convolution",
    "winograd_matrices",
]


def cuda_kernels() -> bool:
    """Whether Triton, which the kernels of cuda.py are written in, is installed (torch brings it on Linux)."""
    return importlib.util.find_spec("triton") is not None


def implementation(device: torch.device) -> ModuleType:
    """The module whose functions compute on tensors of a device; cpu.py copies those of devices it does not know.

    The environment variable ROTANEXT_OPS=reference puts the readable operators in the place of all others.
    """
    if os.environ.get("ROTANEXT_OPS") == "reference":
        return reference
    if device.type == "cuda" and cuda_kernels():
        from rotanext.ops import cuda

        return cuda
    return cpu


def compiled_in_place(device: torch.device) -> bool:
    """Whether numba's kernels compute on a device's tensors where they lie: on the CPU, unless the reference is asked for.

    The rule by which networks take `winograd_convolution` and `depthwise_weight_gradient` in the place of torch's own convolutions.
    """
    return device.type == "cpu" and implementation(device) is cpu


def _straight(boxes: Tensor) -> bool:
    """Whether a device's function may be called in torch's operator's place: nobody traces or compiles, and there are numbers.

    torch's way to its custom operators loads its compiler first: seconds, and 200 MB.
    """
    return type(boxes) is Tensor and not torch.compiler.is_compiling() and not torch._C._len_torch_dispatch_stack()


def _checked(boxes: Tensor, name: str) -> Tensor:
    """Boxes `[N, 5]` as numbers that have fractions; ValueError for any other shape."""
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 5:
        found = list(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
        raise ValueError(f"{name} must be a tensor [N, 5] (cx, cy, w, h, angle); found {found}")
    return boxes if boxes.is_floating_point() else boxes.float()


def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """IoU `[K]` of paired boxes a `[K, 5]` and b `[K, 5]`; see `rotated_iou`. ValueError for other shapes."""
    check_mode(mode)
    a, b = _checked(a, "a"), _checked(b, "b")
    if len(a) != len(b):
        raise ValueError(f"paired boxes must be as many on both sides; found {len(a)} and {len(b)}")
    plain = _straight(a) and torch._C._functorch.maybe_current_level() is None
    result: Tensor = (_Pairs.apply if plain else torch.ops.rotanext.iou_pairs)(a, b, mode)
    return result


def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """Intersection over union `[N, M]` of boxes a `[N, 5]` and b `[M, 5]` (`boxes.py`), in a's dtype (float32 for whole numbers).

    mode "iof" divides by the area of the first box instead. Exact for every input: 0 for boxes without area, never NaN, in [0, 1].
    Differentiable once, in both. ValueError for other shapes.
    """
    check_mode(mode)
    result: Tensor = torch.ops.rotanext.iou_matrix(_checked(a, "a"), _checked(b, "b"), mode)
    return result


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None = None, iou_threshold: float = 0.1) -> Tensor:
    """Greedy non-maximum suppression; the kept indices `[K]` (int64), best first.

    boxes `[N, 5]`, scores `[N]`, labels `[N]` or None, iou_threshold from 0 to 1; ValueError for anything else. A box is dropped
    when its IoU with a kept, better one of the same label is **greater** than the threshold. Ties in score: the lower index wins;
    NaN is the lowest score.
    """
    boxes, iou_threshold = _checked(boxes, "boxes"), float(iou_threshold)
    for name, values in (("scores", scores), ("labels", labels)):
        if values is not None and values.shape != (len(boxes),):
            raise ValueError(f"{name} must be [{len(boxes)}], one a box; found {list(values.shape)}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; expected a number from 0 to 1")
    scores = torch.nan_to_num(scores, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    nms = implementation(boxes.device).rotated_nms if _straight(boxes) else torch.ops.rotanext.nms
    result: Tensor = nms(boxes, scores, labels, iou_threshold)
    return result


def assign_anchors(
    anchors: Tensor, boxes: Tensor, positive_iou: float = 0.5, negative_iou: float = 0.4, layout: Sequence[int] = ()
) -> Tensor:
    """RetinaNet's max-IoU assignment `[A]` (int64) of `anchors [A, 5]` to `boxes [G, 5]`, without a matrix of IoUs.

    0 is negative, -1 ignored, i the i-th object (from 1). An anchor whose best IoU reaches positive_iou is positive (ties between
    objects: the earlier), below negative_iou negative, between ignored. Every object's best anchors (all ties, in float32) are
    positive as well, however low their IoU; where several objects claim one, the later wins. An object without area, or that
    overlaps no anchor, gets none. The same as the rule applied to the whole matrix of IoUs.

    `layout` says how the anchors of a grid lie, which makes it fast and changes nothing: height, width, stride and anchors per
    position, level by level in one list (`AnchorRule.layout`); it is believed. ValueError for other shapes, a layout of another
    number of anchors, or unless 0 <= negative_iou <= positive_iou <= 1.
    """
    anchors, boxes = _checked(anchors, "anchors"), _checked(boxes, "boxes")
    if not 0 <= negative_iou <= positive_iou <= 1:
        raise ValueError(f"negative_iou {negative_iou} and positive_iou {positive_iou} must rise from 0 to 1")
    if anchors.dtype not in (torch.float32, torch.float64):
        anchors = anchors.float()
    layout = list(layout)
    described = sum(layout[i] * layout[i + 1] * layout[i + 3] for i in range(0, len(layout) // 4 * 4, 4))
    if layout and (len(layout) % 4 or described != len(anchors)):
        raise ValueError(f"the layout describes {described} anchors in {len(layout)} numbers; there are {len(anchors)} anchors")
    assign = (implementation(anchors.device) if _straight(anchors) else torch.ops.rotanext).assign_anchors
    result: Tensor = assign(anchors, boxes, float(positive_iou), float(negative_iou), layout)
    return result


@torch.no_grad()
def assign_dynamic(
    points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """RTMDet's dynamic soft-label assignment of one image, without a matrix of points x objects x classes.

    `points [P, 2]` (pixels) of levels with `strides [P]` predict `boxes [P, 5]` and `logits [P, C]`; `objects [G, 5]` have
    `labels [G]` (int64). Gives the index `[P]` (int64: 0 background, i the i-th object, from 1) and the quality `[P]` (float32: the
    IoU of a positive point's box with its object, 0 elsewhere). The rule and its numbers are in `dynamic.py`:

    Candidates are the points inside any object. An object takes its k cheapest candidates, k the integer part of the sum of its 13
    highest IoUs, at least 1. A candidate that several objects take goes to the cheapest of **all** objects. Of equal costs the
    lower index comes first, of points as of objects. Pairs of infinite cost (41 strides apart, or not numbers) are never taken.

    Not differentiable. ValueError for other shapes, and for labels that are no class.
    """
    boxes, objects = _checked(boxes, "boxes"), _checked(objects, "objects")
    _check_shapes(points, strides, boxes, logits, objects, labels)
    assign = (implementation(boxes.device) if _straight(boxes) else torch.ops.rotanext).assign_dynamic
    result: tuple[Tensor, Tensor] = assign(points, strides, boxes, logits, objects, labels)
    return result


def _check_shapes(points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor) -> None:
    """ValueError unless the arguments of `assign_dynamic` fit each other."""
    many = len(boxes)
    for name, values, wanted in (("points", points, (many, 2)), ("strides", strides, (many,)), ("labels", labels, (len(objects),))):
        if values.shape != wanted:
            raise ValueError(f"{name} must be {list(wanted)}; found {list(values.shape)}")
    if logits.dim() != 2 or len(logits) != many:
        raise ValueError(f"logits must be [{many}, classes]; found {list(logits.shape)}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(f"labels are {int(labels.min())} to {int(labels.max())}; expected 0 to {logits.shape[1] - 1}")


def overlapping_polygons(a: np.ndarray, b: np.ndarray, least: float = 1e-12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of simple quadrilaterals a `[N, 4, 2]` and b `[M, 4, 2]` whose true IoU is above `least`; see `polygon_iou`.

    Indices i and j (ascending) and IoU (float64), `[K]` each; no matrix is stored. In NumPy, like all that deals with corners
    (`polygons.py`). ValueError for other shapes.
    """
    for name, corners in (("a", a), ("b", b)):
        if corners.ndim != 3 or corners.shape[1:] != (4, 2):
            raise ValueError(f"{name} must be [N, 4, 2]; found {list(corners.shape)}")
    first, second = np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64)
    overlapping = implementation(torch.device("cpu")).overlapping_polygons
    result: tuple[np.ndarray, np.ndarray, np.ndarray] = overlapping(first, second, float(least))
    return result


def winograd_convolution(x: Tensor, matrices: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution `[B, K, H, W]`, stride 1, padding 1, of maps `[B, C, H, W]` with weights in `winograd_matrices`' form.

    All float32 and on the CPU, bias `[K]`; the result is laid out channels-last. Not differentiable.
    """
    result: Tensor = implementation(x.device).winograd_convolution(x, matrices, bias)
    return result


def depthwise_weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Gradient `[C, 1, K, K]` of the weights of a depthwise convolution (`size` K odd, stride 1, padding K // 2).

    x `[B, C, H, W]` went in, `gradient` of the same shape came back; both float32 and on the CPU.
    """
    result: Tensor = implementation(x.device).depthwise_weight_gradient(x, gradient, size)
    return result


# What torch knows of the operators: their signatures, the shapes they give, and how to differentiate them.


@torch.library.custom_op("rotanext::iou_pairs", mutates_args=())
def _iou_pairs(a: Tensor, b: Tensor, mode: str) -> Tensor:
    result: Tensor = implementation(a.device).rotated_iou_pairs(a, b, mode)
    return result


@torch.library.custom_op("rotanext::iou_matrix", mutates_args=())
def _iou_matrix(a: Tensor, b: Tensor, mode: str) -> Tensor:
    result: Tensor = implementation(a.device).rotated_iou(a, b, mode)
    return result


@torch.library.custom_op("rotanext::nms", mutates_args=())
def _nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    result: Tensor = implementation(boxes.device).rotated_nms(boxes, scores, labels, iou_threshold)
    return result


@torch.library.custom_op("rotanext::assign_anchors", mutates_args=())
def _assign_anchors(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float, layout: Sequence[int]) -> Tensor:
    result: Tensor = implementation(anchors.device).assign_anchors(anchors, boxes, positive_iou, negative_iou, layout)
    return result


@torch.library.custom_op("rotanext::assign_dynamic", mutates_args=())
def _assign_dynamic(
    points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = implementation(boxes.device).assign_dynamic(points, strides, boxes, logits, objects, labels)
    return result


@_iou_pairs.register_fake
def _(a: Tensor, b: Tensor, mode: str) -> Tensor:
    return a.new_empty(a.shape[0])


@_iou_matrix.register_fake
def _(a: Tensor, b: Tensor, mode: str) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[0])


@_nms.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@_assign_anchors.register_fake
def _(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float, layout: Sequence[int]) -> Tensor:
    return anchors.new_empty(anchors.shape[0], dtype=torch.int64)


@_assign_dynamic.register_fake
def _(points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return points.new_empty(len(points), dtype=torch.int64), points.new_empty(len(points), dtype=torch.float32)


def _save_boxes(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor | None = None) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.mode = inputs[2]


class _Pairs(torch.autograd.Function):
    """What `torch.ops.rotanext.iou_pairs` does, where nobody traces."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, mode: str) -> Tensor:
        _save_boxes(ctx, (a, b, mode))
        result: Tensor = implementation(a.device).rotated_iou_pairs(a, b, mode)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        return *_pairs_gradients(a, b, gradient, ctx.mode), None


def _pairs_gradients(a: Tensor, b: Tensor, gradient: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = implementation(a.device).iou_pairs_gradients(a, b, gradient, mode)
    return result


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    a, b = ctx.saved_tensors
    return *torch.ops.rotanext.iou_gradients(a, b, gradient, ctx.mode), None


_iou_pairs.register_autograd(_backward, setup_context=_save_boxes)
_iou_matrix.register_autograd(_backward, setup_context=_save_boxes)


@torch.library.custom_op("rotanext::iou_gradients", mutates_args=())
def _iou_gradients(a: Tensor, b: Tensor, gradient: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Gradients of both boxes from that of the pairs `[K]` or of the matrix `[N, M]`."""
    return (_pairs_gradients if gradient.dim() == 1 else reference.iou_matrix_gradients)(a, b, gradient, mode)


@_iou_gradients.register_fake
def _(a: Tensor, b: Tensor, gradient: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), b.new_empty(b.shape)
