"""Rotated operators: one public function each; the device chooses the implementation behind it.

reference.py is the readable truth, and serves every device without one of its own; cpu.py is compiled by numba.
"""

import importlib
import os
import pickle

import numpy as np
import torch
from torch import Tensor

from rotanext.ops import reference
from rotanext.ops.reference import check_mode, polygon_iou

__all__ = ["polygon_iou", "rotated_iou", "rotated_iou_pairs", "rotated_nms"]


def _on_cpu(*boxes: Tensor) -> bool:
    """Whether numba's version serves: it reads the CPU's memory."""
    return all(b.device.type == "cpu" for b in boxes)


def _wants_gradient(*boxes: Tensor) -> bool:
    return torch.is_grad_enabled() and any(b.requires_grad for b in boxes)


def _checked(boxes: Tensor, name: str) -> Tensor:
    """Boxes `[N, 5]` as numbers that have fractions; ValueError for any other shape."""
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 5:
        found = list(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
        raise ValueError(f"{name} must be a tensor [N, 5] (cx, cy, w, h, angle); found {found}")
    return boxes if boxes.is_floating_point() else boxes.float()


def _compiled(name: str, *arguments: object) -> np.ndarray:
    """Call a function of cpu.py; without its cache, should that be damaged or its disk full."""
    from rotanext.ops import cpu

    try:
        result: np.ndarray = getattr(cpu, name)(*arguments)
    except (OSError, EOFError, pickle.UnpicklingError):
        os.environ[cpu.CACHE] = "0"
        result = getattr(importlib.reload(cpu), name)(*arguments)
    return result


def _array(boxes: Tensor) -> np.ndarray:
    values: np.ndarray = boxes.detach().double().contiguous().numpy()
    return values


def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """IoU `[K]` of paired boxes a `[K, 5]` and b `[K, 5]`; see `rotated_iou`. ValueError for other shapes."""
    check_mode(mode)
    a, b = _checked(a, "a"), _checked(b, "b")
    if len(a) != len(b):
        raise ValueError(f"paired boxes must be as many on both sides; found {len(a)} and {len(b)}")
    if _on_cpu(a, b) and not _wants_gradient(a, b):
        return torch.from_numpy(_compiled("iou_pairs", _array(a), _array(b), mode == "iof")).to(a.dtype)
    return reference.rotated_iou_pairs(a, b, mode)


def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """Intersection over union `[N, M]` of boxes a `[N, 5]` and b `[M, 5]` (`boxes.py`), in a's dtype (float32 for whole numbers).

    mode "iof" divides by the area of the first box instead. Exact for every input: 0 for boxes without area, never NaN, in [0, 1].
    ValueError for other shapes.
    """
    check_mode(mode)
    a, b = _checked(a, "a"), _checked(b, "b")
    if _on_cpu(a, b) and not _wants_gradient(a, b):
        return torch.from_numpy(_compiled("iou_matrix", _array(a), _array(b), mode == "iof")).to(a.dtype)
    return reference.rotated_iou(a, b, mode)


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None = None, iou_threshold: float = 0.1) -> Tensor:
    """Greedy non-maximum suppression; the kept indices `[K]` (int64), best first.

    boxes `[N, 5]`, scores `[N]`, labels `[N]` or None, iou_threshold from 0 to 1; ValueError for anything else. A box is dropped
    when its IoU with a kept, better one of the same label is **greater** than the threshold. Ties in score: the lower index wins.
    """
    boxes, iou_threshold = _checked(boxes, "boxes"), float(iou_threshold)
    for name, values in (("scores", scores), ("labels", labels)):
        if values is not None and values.shape != (len(boxes),):
            raise ValueError(f"{name} must be [{len(boxes)}], one a box; found {list(values.shape)}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; expected a number from 0 to 1")
    if not _on_cpu(boxes):
        return reference.rotated_nms(boxes, scores, labels, iou_threshold)
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    segments, starts = order, torch.tensor([0, len(order)])
    if labels is not None:
        by_label = torch.argsort(labels[order], stable=True)
        segments = order[by_label]
        _, counts = torch.unique_consecutive(labels[segments], return_counts=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    keep = torch.from_numpy(_compiled("nms", _array(boxes), segments.numpy(), starts.numpy(), iou_threshold))
    return order[keep[order]]
