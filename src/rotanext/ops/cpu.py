"""The operators for tensors in the CPU's memory, computed by the numba kernels of the files cpu_*.py.

Tensors of a device without kernels of its own (Apple's mps, say) are copied here and back. The kernels are imported by the first
call that wants them: numba takes half a second, and commands that compute nothing do without.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rotanext.ops.dynamic import clamped


def warm_up() -> float:
    """Load every kernel, compiling those that are not on disk yet; the seconds it took."""
    start = time.monotonic()
    box = torch.tensor([[4.0, 4, 4, 4, 0]])
    rotated_iou(box, box)
    iou_pairs_gradients(box, box, rotated_iou_pairs(box, box), "iou")
    rotated_nms(box, box[:, 0], None, 0.1)
    assign_anchors(box, box, 0.5, 0.4)
    assign_dynamic(box[:, :2], box[:, 2], box, box[:, :1], box, torch.zeros(1, dtype=torch.int64))
    corners = np.array([[[0.0, 0], [1, 0], [1, 1], [0, 1]]])
    overlapping_polygons(corners, corners, 0.0)
    winograd_convolution(torch.zeros(1, 1, 4, 4), torch.zeros(36, 1, 1), torch.zeros(1))
    depthwise_weight_gradient(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 7)
    return time.monotonic() - start


def _array(numbers: Tensor) -> np.ndarray:
    values: np.ndarray = numbers.detach().cpu().double().contiguous().numpy()  # mps has no float64
    return values


def _number(a: Tensor) -> type:
    return np.float64 if a.dtype == torch.float64 else np.float32


def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou_pairs`."""
    from rotanext.ops.cpu_iou import iou_pairs

    return torch.from_numpy(iou_pairs(_array(a), _array(b), mode == "iof", _number(a))).to(a.device, a.dtype)


def iou_pairs_gradients(a: Tensor, b: Tensor, gradient: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """See `reference.iou_pairs_gradients`."""
    from rotanext.ops import cpu_iou

    limit = torch.finfo(a.dtype).max
    found = cpu_iou.iou_pairs_gradients(_array(a), _array(b), _array(gradient), mode == "iof", limit)
    return torch.from_numpy(found[0]).to(a.device, a.dtype), torch.from_numpy(found[1]).to(b.device, b.dtype)


def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou`."""
    from rotanext.ops.cpu_iou import iou_matrix

    return torch.from_numpy(iou_matrix(_array(a), _array(b), mode == "iof", _number(a))).to(a.device, a.dtype)


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    """See `ops.rotated_nms`."""
    from rotanext.ops.cpu_nms import nms

    order = torch.argsort(scores.detach().cpu(), descending=True, stable=True)
    segments, starts = order, torch.tensor([0, len(order)])
    if labels is not None:
        by_label = torch.argsort(labels.cpu()[order], stable=True)
        segments = order[by_label]
        _, counts = torch.unique_consecutive(labels.cpu()[segments], return_counts=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    keep = torch.from_numpy(nms(_array(boxes), segments.numpy(), starts.numpy(), iou_threshold))
    return order[keep[order]].to(boxes.device)


def assign_anchors(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float, layout: Sequence[int] = ()) -> Tensor:
    """See `ops.assign_anchors`."""
    from rotanext.ops import cpu_assign

    values = anchors.detach().cpu().contiguous().numpy()
    assigned = cpu_assign.assign_anchors(values, _array(boxes), positive_iou, negative_iou, layout)
    return torch.from_numpy(assigned).to(anchors.device)


def assign_dynamic(
    points: Tensor, strides: Tensor, boxes: Tensor, logits: Tensor, objects: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """See `ops.assign_dynamic`."""
    from rotanext.ops import cpu_dynamic

    places = torch.cat([points, strides[:, None]], 1)
    numbers = _array(places), _array(clamped(boxes)), logits.detach().cpu(), _array(objects), _array(clamped(objects))
    index, quality = cpu_dynamic.assign_dynamic(*numbers, labels.cpu().long().numpy())
    return torch.from_numpy(index).to(boxes.device), torch.from_numpy(quality).to(boxes.device)


def overlapping_polygons(a: np.ndarray, b: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `ops.overlapping_polygons`."""
    from rotanext.ops import cpu_polygons

    result: tuple[np.ndarray, np.ndarray, np.ndarray] = cpu_polygons.overlapping_polygons(a, b, least)
    return result


def winograd_convolution(x: Tensor, matrices: Tensor, bias: Tensor) -> Tensor:
    """See `ops.winograd_convolution`."""
    from rotanext.ops import cpu_winograd

    result: Tensor = cpu_winograd.winograd_convolution(x, matrices, bias)
    return result


def depthwise_weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """See `ops.depthwise_weight_gradient`."""
    from rotanext.ops import cpu_depthwise

    result: Tensor = cpu_depthwise.depthwise_weight_gradient(x, gradient, size)
    return result
