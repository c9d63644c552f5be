"""The operators for tensors in the CPU's memory, computed by the numba kernels of cpu_iou.py, cpu_nms.py and cpu_assign.py.

Tensors of a device without kernels of its own (Apple's mps, say) are copied here and back.
"""

import importlib
import os
import pickle

import numpy as np
import torch
from torch import Tensor

CACHE = "ROTANEXT_NUMBA_CACHE"  # environment variable; 0: compile anew in each process


def _run(module: str, *arguments: object) -> np.ndarray:
    """Call the function a module of kernels is named after; without numba's disk cache, should that be damaged or its disk full."""
    from rotanext.ops import cpu_assign, cpu_iou, cpu_nms

    modules = {"iou_pairs": cpu_iou, "iou_matrix": cpu_iou, "nms": cpu_nms, "assign": cpu_assign}
    try:
        result: np.ndarray = getattr(modules[module], module)(*arguments)
    except (OSError, EOFError, pickle.UnpicklingError):
        os.environ[CACHE] = "0"
        for kernels in (cpu_iou, cpu_nms, cpu_assign):
            importlib.reload(kernels)
        result = getattr(modules[module], module)(*arguments)
    return result


def _array(boxes: Tensor) -> np.ndarray:
    values: np.ndarray = boxes.detach().double().cpu().contiguous().numpy()
    return values


def _iou(name: str, a: Tensor, b: Tensor, mode: str) -> Tensor:
    dtype = np.float64 if a.dtype == torch.float64 else np.float32
    return torch.from_numpy(_run(name, _array(a), _array(b), mode == "iof", dtype)).to(a.device, a.dtype)


def rotated_iou_pairs(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou_pairs`."""
    return _iou("iou_pairs", a, b, mode)


def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou") -> Tensor:
    """See `ops.rotated_iou`."""
    return _iou("iou_matrix", a, b, mode)


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    """See `ops.rotated_nms`."""
    order = torch.argsort(scores.detach().cpu(), descending=True, stable=True)
    segments, starts = order, torch.tensor([0, len(order)])
    if labels is not None:
        by_label = torch.argsort(labels.cpu()[order], stable=True)
        segments = order[by_label]
        _, counts = torch.unique_consecutive(labels.cpu()[segments], return_counts=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    keep = torch.from_numpy(_run("nms", _array(boxes), segments.numpy(), starts.numpy(), iou_threshold))
    return order[keep[order]].to(boxes.device)


def assign_anchors(anchors: Tensor, layout: list[int], boxes: Tensor, positive_iou: float, negative_iou: float) -> Tensor:
    """See `ops.assign_anchors`."""
    rows = np.asarray(layout, np.int64).reshape(-1, 4)
    values = anchors.detach().cpu().contiguous()
    found = _run("assign", values.numpy(), rows, _array(boxes), positive_iou, negative_iou)
    return torch.from_numpy(found).to(anchors.device)
