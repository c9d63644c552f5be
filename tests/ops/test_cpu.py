"""From tensors to the compiled kernels and back: types, layouts and gradients of what goes in; what warming up loads."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rotanext.ops import cpu, reference
from shapes import random_boxes

A = random_boxes(40, np.random.default_rng(0))
B = A[:30] + torch.tensor([1.0, -1.0, 0, 0, 0.1])
SCORES = torch.rand(40, generator=torch.Generator().manual_seed(0))
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "every second": lambda x: x.repeat_interleave(2, 0)[::2],
    "with a gradient": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_results_have_the_type_of_the_first_boxes(dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    a, b = layout(A.to(dtype)), layout(B.to(dtype))
    plain_a, plain_b = A.to(dtype), B.to(dtype)
    pairs = [
        (cpu.rotated_iou(a, b.double()), reference.rotated_iou(plain_a, plain_b.double())),
        (cpu.rotated_iou_pairs(a[:30], b, "iof"), reference.rotated_iou_pairs(plain_a[:30], plain_b, "iof")),
    ]
    for found, expected in pairs:
        assert found.dtype == dtype
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=torch.finfo(dtype).eps, atol=1e-12)
        assert found.count_nonzero() > 10
    assert torch.equal(cpu.rotated_nms(a, SCORES, None, 0.1), reference.rotated_nms(plain_a, SCORES, None, 0.1))


@pytest.mark.parametrize(
    "labels",
    [None, torch.zeros(40, dtype=torch.int64), torch.arange(40) % 3, torch.arange(40) % 3 - 1000, (torch.arange(40) % 2).bool()],
    ids=["none", "one", "three", "negative", "bool"],
)
def test_suppression_within_labels(labels: Tensor | None) -> None:
    kept = cpu.rotated_nms(A, SCORES, labels, 0.05)
    assert torch.equal(kept, reference.rotated_nms(A, SCORES, labels, 0.05))
    assert (SCORES[kept].diff() <= 0).all()
    if labels is not None:
        each = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
        alone = torch.cat([one[cpu.rotated_nms(A[one], SCORES[one], None, 0.05)] for one in each])
        assert sorted(kept.tolist()) == sorted(alone.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_assignment_is_the_references(dtype: torch.dtype) -> None:
    anchors, boxes = A.to(dtype), B[:6].to(dtype).requires_grad_()
    found = cpu.assign_anchors(anchors, boxes, 0.6, 0.3)
    assert found.dtype == torch.int64
    assert torch.equal(found, reference.assign_anchors(anchors, boxes.detach(), 0.6, 0.3))
    assert set(found.tolist()) >= {-1, 0, 1}


WARM = """
import importlib, numba, torch
from rotanext import ops
from rotanext.heads.anchors import V0
from rotanext.ops import cpu

names = ("assign", "depthwise", "iou", "nms", "polygons", "winograd")
modules = [importlib.import_module("rotanext.ops.cpu_" + name) for name in names]

def kernels():
    found = {id(f): f for m in modules for f in vars(m).values() if isinstance(f, numba.core.dispatcher.Dispatcher)}
    return {(f.__module__, f.__name__, s) for f in found.values() for s in f.signatures}

cpu.warm_up()
warm = kernels()
boxes = torch.rand(50, 5) * 30 + 1
ops.rotated_iou(boxes, boxes[:9]), ops.rotated_iou_pairs(boxes, boxes, "iof")
ops.rotated_nms(boxes, boxes[:, 0]), ops.rotated_nms(boxes, boxes[:, 0], torch.arange(50) % 3)
sizes = [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]
anchors = torch.cat(V0.grid(sizes))
ops.assign_anchors(anchors, boxes), ops.assign_anchors(anchors, boxes[:0], layout=V0.layout(sizes))
ops.assign_anchors(anchors, boxes, layout=V0.layout(sizes))
corners = torch.rand(20, 4, 2) * 9
ops.overlapping_polygons(corners.numpy(), corners.numpy())
conv = torch.nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)
ops.winograd_convolution(torch.rand(2, 8, 9, 9), ops.winograd_matrices(conv.weight), conv.bias)
ops.depthwise_weight_gradient(torch.rand(2, 8, 9, 9), torch.rand(2, 8, 9, 9), 7)
print(len({module for module, _, _ in warm}), sorted(map(str, kernels() - warm)))
"""


@pytest.mark.slow  # a process of its own
def test_after_warming_up_nothing_is_left_to_load() -> None:
    """A new process's operators on float32, as detectors and trainings use them."""
    done = subprocess.run([sys.executable, "-c", WARM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "6 []"  # kernels of all six files
