"""The operators for tensors in the CPU's memory, computed by the numba kernels of cpu_iou.py, cpu_nms.py and cpu_assign.py.

Tensors of a device without kernels of its own (Apple's mps, say) are copied here and back.
"""

import importlib
import logging
import os
import pickle
import time
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

CACHE = "ROTANEXT_NUMBA_CACHE"  # environment variable; 0: compile anew in each process
_WORTH_A_NOTE = 2.0  # seconds
_log = logging.getLogger("rotanext")


def warm_up() -> float:
    """Load every kernel, compiling those that are not on disk yet; the seconds it took."""
    start = time.monotonic()
    box = torch.tensor([[4.0, 4, 4, 4, 0]])
    rotated_iou(box, box)
    rotated_iou_pairs(box, box)
    rotated_nms(box, box[:, 0], None, 0.1)
    assign_anchors(box, box, 0.5, 0.4)
    corners = torch.tensor([[[0.0, 0], [1, 0], [1, 1], [0, 1]]])
    overlapping_polygons(corners, corners, 0.0)
    convolve(torch.zeros(1, 1, 4, 4), torch.zeros(36, 1, 1), torch.zeros(1))
    depthwise_weight_gradient(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 7)
    return time.monotonic() - start


def _run(name: str, *arguments: object) -> Any:
    """Call a kernel; without numba's disk cache, should that be damaged or its disk full."""
    from rotanext.ops import cpu_assign, cpu_depthwise, cpu_iou, cpu_nms, cpu_polygons, cpu_winograd

    modules = {
        "iou_pairs": cpu_iou,
        "iou_matrix": cpu_iou,
        "nms": cpu_nms,
        "assign": cpu_assign,
        "overlapping_polygons": cpu_polygons,
        "convolve": cpu_winograd,
        "depthwise_weight_gradient": cpu_depthwise,
    }
    start, compiled = time.monotonic(), _compiled(modules[name])
    try:
        result = getattr(modules[name], name)(*arguments)
    except (OSError, EOFError, pickle.UnpicklingError):
        os.environ[CACHE] = "0"
        for kernels in dict.fromkeys(modules.values()):  # cpu_iou first, which the others call
            importlib.reload(kernels)
        result = getattr(modules[name], name)(*arguments)
    taken = time.monotonic() - start
    if taken > _WORTH_A_NOTE and _compiled(modules[name]) > compiled:
        _log.warning("compiled the operator %s for this machine (%.0f s)", name, taken)
    return result


def _compiled(module: ModuleType) -> int:
    """How many of a module's kernels have been compiled in this process, rather than read from numba's cache."""
    return sum(sum(f.stats.cache_misses.values()) for f in vars(module).values() if hasattr(f, "stats"))


def _array(boxes: Tensor) -> np.ndarray:
    values: np.ndarray = boxes.detach().cpu().double().contiguous().numpy()  # mps has no float64
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


def assign_anchors(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float) -> Tensor:
    """See `ops.assign_anchors`."""
    values = anchors.detach().cpu().contiguous().numpy()
    return torch.from_numpy(_run("assign", values, _array(boxes), positive_iou, negative_iou)).to(anchors.device)


def overlapping_polygons(a: Tensor, b: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """See `ops.overlapping_polygons`."""
    i, j, iou = (torch.from_numpy(values) for values in _run("overlapping_polygons", _array(a), _array(b), least))
    return i, j, iou


def convolve(x: Tensor, matrices: Tensor, bias: Tensor) -> Tensor:
    """See ops/cpu_winograd.py."""
    result: Tensor = _run("convolve", x, matrices, bias)
    return result


def depthwise_weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """See cpu_depthwise.py."""
    result: Tensor = _run("depthwise_weight_gradient", x, gradient, size)
    return result
