"""IoU of pairs and its gradients by Triton against the readable ones: on a GPU where there is one, else in Triton's interpreter."""

import importlib

import pytest
import torch

from rotanext.ops import reference
from triton_boxes import DEVICE, awkward_boxes, random_boxes

pytest.importorskip("triton", reason="Triton exists for Linux only")
cuda_iou = importlib.import_module("rotanext.ops.cuda_iou")


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs(mode: str, dtype: torch.dtype) -> None:
    a, b = random_boxes(300, 0, 30, dtype), random_boxes(300, 1, 30, dtype)
    expected = reference.rotated_iou_pairs(a, b, mode)
    assert 50 < (expected > 0).sum() < 300
    tolerance = 1e-12 if dtype == torch.float64 else 1e-7
    torch.testing.assert_close(cuda_iou.rotated_iou_pairs(a, b, mode), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients(mode: str, dtype: torch.dtype) -> None:
    a, b = random_boxes(300, 2, 20, dtype), random_boxes(300, 3, 20, dtype)
    b[:9] = a[:9].clone()  # identical
    b[9:19, 4] = a[9:19, 4].clone()  # parallel
    upstream = torch.randn(300, dtype=dtype, device=DEVICE)
    expected = reference.iou_pairs_gradients(a, b, upstream, mode)
    for found, wanted in zip(cuda_iou.iou_pairs_gradients(a, b, upstream, mode), expected, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-10)
        assert wanted.abs().amax(0).min() > 0.01


@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_gradients_of_awkward_boxes(mode: str) -> None:
    boxes = awkward_boxes()
    i, j = torch.cartesian_prod(torch.arange(len(boxes)), torch.arange(len(boxes))).to(DEVICE).unbind(1)
    upstream = torch.ones(len(i), device=DEVICE)
    expected = reference.iou_pairs_gradients(boxes[i], boxes[j], upstream, mode)
    for found, wanted in zip(cuda_iou.iou_pairs_gradients(boxes[i], boxes[j], upstream, mode), expected, strict=True):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_no_pairs() -> None:
    none = torch.zeros(0, 5, device=DEVICE)
    assert cuda_iou.rotated_iou_pairs(none, none).shape == (0,)
    assert [g.shape for g in cuda_iou.iou_pairs_gradients(none, none, none[:, 0], "iou")] == [(0, 5), (0, 5)]


def test_half_precision_and_other_layouts() -> None:
    a, b = random_boxes(40, 4).half(), random_boxes(40, 5).half()
    turned = a.t().contiguous().t()
    upstream = torch.ones(80, device=DEVICE, dtype=torch.half)[::2]
    for found, wanted in zip(
        cuda_iou.iou_pairs_gradients(turned, b, upstream, "iou"), reference.iou_pairs_gradients(a, b, upstream, "iou"), strict=True
    ):
        assert found.dtype == torch.float16
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-4)
