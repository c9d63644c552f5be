"""Rotated operators: one public function each; the device chooses the implementation behind it.

reference.py is the readable truth, and serves every device without one of its own; cpu.py is compiled by numba.
"""

import torch
from torch import Tensor

from rotanext.ops import reference
from rotanext.ops.reference import polygon_iou

__all__ = ["polygon_iou", "rotated_iou", "rotated_iou_pairs", "rotated_nms"]


def _on_cpu(*boxes: Tensor) -> bool:
    """Whether numba's version serves: it reads the CPU's memory."""
    return all(b.device.type == "cpu" for b in boxes)


def _wants_gradient(*boxes: Tensor) -> bool:
    return torch.is_grad_enabled() and any(b.requires_grad for b in boxes)


def _check(mode: str) -> None:
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode is {mode!r}; expected 'iou' or 'iof'")


def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """IoU `[K]` of paired boxes a `[K, 5]` and b `[K, 5]`; see `rotated_iou`."""
    _check(mode)
    if _on_cpu(a, b) and not _wants_gradient(a, b):
        from rotanext.ops import cpu

        return torch.from_numpy(cpu.iou_pairs(a.detach().double().numpy(), b.detach().double().numpy(), mode == "iof")).to(a.dtype)
    return reference.rotated_iou_pairs(a, b, mode)


def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """Intersection over union `[N, M]` of boxes a `[N, 5]` and b `[M, 5]` (`boxes.py`), in a's dtype.

    mode "iof" divides by the area of the first box instead. Exact for every input: 0 for boxes without area, never NaN, in [0, 1].
    """
    _check(mode)
    if _on_cpu(a, b) and not _wants_gradient(a, b):
        from rotanext.ops import cpu

        return torch.from_numpy(cpu.iou_matrix(a.detach().double().numpy(), b.detach().double().numpy(), mode == "iof")).to(a.dtype)
    return reference.rotated_iou(a, b, mode)


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None = None, iou_threshold: float = 0.1) -> Tensor:
    """Greedy non-maximum suppression; the kept indices `[K]` (int64), best first.

    boxes `[N, 5]`, scores `[N]`, labels `[N]` or None. A box is dropped when its IoU with a kept, better one of the same label is
    **greater** than the threshold. Ties in score: the lower index wins.
    """
    if not _on_cpu(boxes):
        return reference.rotated_nms(boxes, scores, labels, iou_threshold)
    from rotanext.ops import cpu

    order = torch.argsort(scores.detach(), descending=True, stable=True)
    segments, starts = order, torch.tensor([0, len(order)])
    if labels is not None:
        by_label = torch.argsort(labels[order], stable=True)
        segments = order[by_label]
        _, counts = torch.unique_consecutive(labels[segments], return_counts=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    keep = torch.from_numpy(cpu.nms(boxes.detach().double().numpy(), segments.numpy(), starts.numpy(), iou_threshold))
    return order[keep[order]]
