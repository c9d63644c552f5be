"""The Triton kernels against the readable operators: on a GPU where there is one, else on small shapes in Triton's interpreter."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rotanext.heads.anchors import V0
from rotanext.ops import reference
from triton_boxes import DEVICE, awkward_boxes, random_boxes

pytest.importorskip("triton", reason="Triton exists for Linux only")
cuda = importlib.import_module("rotanext.ops.cuda")


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iou(mode: str, dtype: torch.dtype) -> None:
    a, b = random_boxes(37, 0, dtype=dtype), random_boxes(23, 1, dtype=dtype)
    expected = reference.rotated_iou(a, b, mode)
    assert (expected > 0).sum() > 50
    tolerance = 1e-12 if dtype == torch.float64 else 1e-7
    torch.testing.assert_close(cuda.rotated_iou(a, b, mode), expected, rtol=0, atol=tolerance)


def test_iou_of_awkward_boxes() -> None:
    boxes = awkward_boxes()
    found, expected = cuda.rotated_iou(boxes, boxes), reference.rotated_iou(boxes, boxes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.isfinite(found).all()


def test_rows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(40, 2), random_boxes(33, 3)
    expected = cuda.rotated_iou(a, b)
    scores = torch.rand(40, device=DEVICE)
    kept = cuda.rotated_nms(a, scores, None, 0.3)
    monkeypatch.setattr(cuda, "_PAIRS_AT_ONCE", 300)
    assert torch.equal(cuda.rotated_iou(a, b), expected)
    assert torch.equal(cuda.rotated_nms(a, scores, None, 0.3), kept)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("labelled", [False, True])
def test_nms(threshold: float, labelled: bool) -> None:
    for seed, n in ((0, 1), (1, 31), (2, 100)):
        boxes = random_boxes(n, seed)
        boxes[n // 2 :: 7] = boxes[0].clone()  # duplicates
        scores = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, n) / 9).to(DEVICE)  # ties
        labels = torch.arange(n, device=DEVICE) % 3 if labelled else None
        expected = reference.rotated_nms(boxes, scores, labels, threshold)
        assert torch.equal(cuda.rotated_nms(boxes, scores, labels, threshold), expected)


def test_nms_of_awkward_boxes() -> None:
    boxes = awkward_boxes()
    scores = torch.linspace(1, 0, len(boxes), device=DEVICE)
    assert torch.equal(cuda.rotated_nms(boxes, scores, None, 0.1), reference.rotated_nms(boxes, scores, None, 0.1))
    assert len(cuda.rotated_nms(boxes[:0], scores[:0], None, 0.1)) == 0


def test_many_boxes_go_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_boxes(50, 4), torch.rand(50, device=DEVICE)
    monkeypatch.setattr(cuda, "_MOST_BOXES", 20)
    monkeypatch.delattr(cuda, "_scan_kernel")
    assert torch.equal(cuda.rotated_nms(boxes, scores, None, 0.2), reference.rotated_nms(boxes, scores, None, 0.2))


@pytest.mark.slow
def test_assign() -> None:
    sizes = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    anchors = torch.cat(V0.grid(sizes, DEVICE))
    for seed in range(4):
        boxes = torch.cat([random_boxes(6, seed), random_boxes(6, seed)[:2]])  # two of them twice
        boxes[3, 2:4] *= torch.tensor([1, 0.02], device=DEVICE)
        boxes[4, 2] = 0 if seed == 1 else boxes[4, 2]
        expected = reference.assign_anchors(anchors, boxes, 0.5, 0.4)
        for layout in ([], V0.layout(sizes)):
            assert torch.equal(cuda.assign_anchors(anchors, boxes, 0.5, 0.4, layout), expected)
        assert (expected > 0).any()
    assert not cuda.assign_anchors(anchors, boxes[:0], 0.5, 0.4).any()


def test_the_scan_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_boxes(150, 8), torch.rand(150, device=DEVICE)
    monkeypatch.setattr(cuda, "_SCAN_BLOCK", 2)
    assert torch.equal(cuda.rotated_nms(boxes, scores, None, 0.1), reference.rotated_nms(boxes, scores, None, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_types_and_layouts(dtype: torch.dtype) -> None:
    a, b = random_boxes(12, 9).to(dtype), random_boxes(9, 10).to(dtype)
    turned = a.t().contiguous().t()
    assert not turned.is_contiguous()
    torch.testing.assert_close(
        cuda.rotated_iou(turned, b), reference.rotated_iou(a, b), rtol=0, atol=1e-3 if dtype == torch.float16 else 1e-6
    )


COMPILE = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rotanext.ops import cuda, cuda_iou

F, I, D, L, B = "*fp32", "*i32", "*fp64", "*i64", 64
compiled = 0
def check(kernel, types, constants):
    global compiled
    names = kernel.arg_names
    signature = {name: types.get(name, "i32") for name in names if name not in constants}
    signature |= {name: "constexpr" for name in constants}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    compiled += 1
check(cuda_iou._prepare_kernel, {"boxes": F, "order": L, "out": D}, {"ordered": True, "block": B})
check(cuda_iou._pairs_kernel, {"first": D, "second": D, "out": F}, {"iof": False, "block": B})
for iof in (False, True):
    gradients = {"first": D, "second": D, "upstream": F, "of_first": F, "of_second": F}
    check(cuda_iou._gradients_kernel, gradients, {"iof": iof, "limit": 3e38, "block": B})
near = {"first": D, "second": D, "labels": L, "found": I, "count": I}
check(cuda._near_kernel, near, {"threshold": 0.1, "suppress": True, "labelled": True, "tile": 32})
check(cuda._near_kernel, near, {"threshold": 0.0, "suppress": False, "labelled": False, "tile": 32})
check(cuda._listed_iou_kernel, {"first": D, "second": D, "found": I, "count": I, "out": F}, {"iof": True, "block": B})
check(cuda._listed_mask_kernel, {"boxes": D, "found": I, "count": I, "mask": I}, {"threshold": 0.1, "block": B})
check(cuda._scan_kernel, {"mask": I, "removed": I}, {"block": 512})
assigned = {"anchors": D, "objects": D, "best_of_object": I, "out": L, "positive_iou": "fp32", "negative_iou": "fp32"}
for conclude in (False, True):
    check(cuda._assign_kernel, assigned, {"conclude": conclude, "block": B})
print(compiled)
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    """To machine code for an H100, without one: the interpreter accepts what the compiler does not."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {
        "TRITON_CACHE_DIR": str(tmp_path)
    }
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "11", done.stderr[-3000:]
