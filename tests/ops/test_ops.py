"""The operators' doors: what they take and refuse, which implementation is behind them, and what torch sees of them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rotanext import ops
from rotanext.boxes import boxes_to_corners
from rotanext.heads.anchors import V0
from rotanext.ops import polygon_iou, reference, rotated_iou, rotated_iou_pairs
from scenes import golden_scene
from shapes import random_boxes

pytestmark = pytest.mark.usefixtures("implementation")


def test_no_boxes() -> None:
    none, some = torch.zeros(0, 5), torch.ones(3, 5)
    assert rotated_iou(none, some).shape == (0, 3)
    assert rotated_iou(some, none).shape == (3, 0)
    assert polygon_iou(torch.zeros(0, 4, 2), torch.zeros(3, 4, 2)).shape == (0, 3)


def test_matrix_equals_pairs_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    a, b = random_boxes(37, rng), random_boxes(23, rng)
    whole = rotated_iou(a, b)
    i, j = torch.cartesian_prod(torch.arange(37), torch.arange(23)).unbind(1)
    torch.testing.assert_close(whole.flatten(), rotated_iou_pairs(a[i], b[j]), atol=1e-15, rtol=1e-12)
    polygons = polygon_iou(boxes_to_corners(a), boxes_to_corners(b))
    monkeypatch.setattr(reference, "_PAIRS_AT_ONCE", 32)
    torch.testing.assert_close(rotated_iou(a, b), whole, atol=1e-15, rtol=1e-12)
    torch.testing.assert_close(polygon_iou(boxes_to_corners(a), boxes_to_corners(b)), polygons, atol=1e-15, rtol=1e-12)


BOXES = torch.tensor([[10.0, 10, 8, 4, 0.3], [11, 10, 8, 4, 0.2], [40, 40, 3, 9, -1.0]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: rotated_iou(BOXES[:, :4], BOXES),
        lambda: rotated_iou(BOXES[0], BOXES),
        lambda: rotated_iou(BOXES, BOXES.tolist()),
        lambda: rotated_iou_pairs(BOXES, BOXES[:1]),
        lambda: rotated_iou_pairs(BOXES[:2], BOXES),
        lambda: ops.rotated_nms(BOXES, torch.rand(300)),
        lambda: ops.rotated_nms(BOXES, torch.rand(3, 1)),
        lambda: ops.rotated_nms(BOXES, torch.rand(3), torch.zeros(2)),
        lambda: ops.rotated_nms(BOXES[:, :4], torch.rand(3)),
        lambda: ops.rotated_nms(BOXES, torch.rand(3), None, -0.5),
        lambda: ops.rotated_nms(BOXES, torch.rand(3), None, math.nan),
    ],
)
def test_other_shapes_are_refused(call: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        call()


def test_whole_numbers_and_other_layouts_are_taken() -> None:
    whole = BOXES.round().long()
    torch.testing.assert_close(rotated_iou(whole, whole), rotated_iou(whole.float(), whole.float()))
    assert ops.rotated_nms(whole, torch.tensor([3, 2, 1])).tolist() == [0, 2]
    transposed = BOXES.t().contiguous().t()
    torch.testing.assert_close(rotated_iou(transposed, BOXES), rotated_iou(BOXES, BOXES))
    half = BOXES.half()
    assert rotated_iou(half, half).dtype == torch.float16
    with torch.inference_mode():
        assert ops.rotated_nms(BOXES, torch.rand(3), iou_threshold=torch.tensor(0.3)).shape == (2,)  # type: ignore[arg-type]


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert ops.implementation(torch.device("cpu")).__name__.endswith(("cpu", "reference"))
    monkeypatch.setenv("ROTANEXT_OPS", "reference")
    assert ops.implementation(torch.device("cuda")) is reference


# What torch sees


OPERATORS = torch.ops.rotanext


@pytest.mark.parametrize("gradient", [False, True])
def test_operators_pass_torchs_own_checks(gradient: bool) -> None:
    a, b = random_boxes(7, np.random.default_rng(0), 40).float(), random_boxes(5, np.random.default_rng(1), 40).float()
    a.requires_grad_(gradient), b.requires_grad_(gradient)
    for arguments in ((a, b, "iou"), (a[:5], b, "iof")):
        torch.library.opcheck(OPERATORS.iou_matrix.default, arguments)
    torch.library.opcheck(OPERATORS.iou_pairs.default, (a[:5], b, "iou"))
    scores, labels = torch.rand(7), torch.arange(7) % 2
    for chosen in (None, labels):
        torch.library.opcheck(OPERATORS.nms.default, (a.detach(), scores, chosen, 0.1))
    sizes = [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]
    anchors = torch.cat(V0.grid(sizes))
    for layout in ([], V0.layout(sizes)):
        torch.library.opcheck(OPERATORS.assign_anchors.default, (anchors, b.detach(), 0.5, 0.4, layout))
    torch.library.opcheck(OPERATORS.assign_dynamic.default, tuple(golden_scene(1, 5, 64, 8, 30)))


def test_compile_and_export_see_through() -> None:
    class Last(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
            keep = ops.rotated_nms(boxes * 2, scores, None, 0.3)
            return boxes[keep], rotated_iou(boxes, boxes[:3]).amax(1)

    boxes, scores = random_boxes(20, np.random.default_rng(0), 40).float(), torch.rand(20)
    expected = Last()(boxes, scores)
    assert len(expected[0]) < 20
    exported = torch.export.export(Last(), (boxes, scores))
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {"rotanext.nms.default", "rotanext.iou_matrix.default"} <= names
    compiled = torch.compile(Last(), fullgraph=True, backend="aot_eager")
    for function in (exported.module(), compiled):
        for found, wanted in zip(function(boxes, scores), expected, strict=True):
            assert torch.equal(found, wanted)


def test_pairs_are_the_same_straight_and_through_torchs_operator() -> None:
    a, b = random_boxes(40, np.random.default_rng(0), 30).float(), random_boxes(40, np.random.default_rng(1), 30).float()
    upstream, results = torch.randn(40), []
    for function in (rotated_iou_pairs, OPERATORS.iou_pairs):
        first, second = a.clone().requires_grad_(), b.clone().requires_grad_()
        for mode in ("iou", "iof"):
            value = function(first, second, mode)
            results.append((value.detach(), *torch.autograd.grad(value, (first, second), upstream)))
    for found, wanted in zip(results[:2], results[2:], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
        assert all(values.any() for values in found)


def test_pairs_can_be_compiled() -> None:
    a, b = random_boxes(9, np.random.default_rng(0), 30).float(), random_boxes(9, np.random.default_rng(1), 30).float()
    compiled = torch.compile(rotated_iou_pairs, fullgraph=True, backend="aot_eager")
    first, second = a.clone().requires_grad_(), a.clone().requires_grad_()
    compiled(first, b).sum().backward()
    rotated_iou_pairs(second, b).sum().backward()
    assert torch.equal(first.grad, second.grad)


def test_nms_ranks_nan_last(implementation: str) -> None:
    boxes = torch.tensor([[10.0, 10, 8, 4, 0], [10, 10, 8, 4, 0.01], [50, 50, 8, 4, 0]])
    assert ops.rotated_nms(boxes, torch.tensor([math.nan, 0.5, 0.9]), None, 0.1).tolist() == [2, 1]
