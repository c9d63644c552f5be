"""The readable operators where no compiled one takes their place: gradients, polygon IoU, blocks of bounded size."""

import math

import numpy as np
import pytest
import torch
from shapely.geometry import Polygon
from torch import nn

from rotanext.ops import polygon_iou, reference, rotated_iou, rotated_iou_pairs
from shapes import INF, NAN, QUADRILATERALS, SQUARE, Row, random_boxes, shapely_iou, simple_quads

HALF = math.pi / 2


# Gradients: those of pairs by each implementation, the matrix's always from here


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(
    "b",
    [
        [5, 5, 10, 4, 0.3], [5, 5, 10, 4, 0.3 + HALF], [6, 5, 10, 4, 0.5], [5, 5, 2, 1, 0.3], [900, 5, 10, 4, 0.3], [5, 5, 0, 0, 0],
        [5, 5, 1e5, 1e-5, 1], [NAN, 5, 10, 4, 0.3], [5, INF, 10, 4, 0.3], [5, 5, INF, 4, 0.3], [5, 5, 10, 4, NAN],
    ],
    ids=["identical", "quarter", "overlap", "inside", "apart", "point", "hair", "nan", "infinite", "endless", "no-angle"],
)  # fmt: skip
def test_gradients_are_finite(b: Row) -> None:
    first = torch.tensor([[5.0, 5, 10, 4, 0.3]], requires_grad=True)
    second = torch.tensor([b], dtype=torch.float32, requires_grad=True)
    for mode in ("iou", "iof"):
        rotated_iou(first, second, mode).sum().backward()
        rotated_iou_pairs(first, second, mode).sum().backward()
    assert torch.isfinite(first.grad).all()
    assert torch.isfinite(second.grad).all()


@pytest.mark.usefixtures("implementation")
def test_gradient_by_differences() -> None:
    rng = np.random.default_rng(6)
    a, b = random_boxes(20, rng, 10, 5, 30), random_boxes(20, rng, 10, 5, 30)
    assert torch.autograd.gradcheck(rotated_iou_pairs, (a.requires_grad_(), b.requires_grad_()), eps=1e-7, atol=1e-4)


@pytest.mark.usefixtures("implementation")
def test_gradients_of_far_boxes_are_zero() -> None:
    a, b = torch.tensor([[0.0, 0, 2, 2, 0]], requires_grad=True), torch.tensor([[9.0, 0, 2, 2, 0]], requires_grad=True)
    rotated_iou(a, b).sum().backward()
    assert not a.grad.any()
    assert not b.grad.any()


def derivatives(a: Row, b: Row, step: float = 1e-6) -> tuple[list[float], list[float], list[float]]:
    """Of the IoU by each number of a: what the operator says, and by differences to the left and to the right."""
    first, second = torch.tensor([a], dtype=torch.float64, requires_grad=True), torch.tensor([b], dtype=torch.float64)
    value = rotated_iou_pairs(first, second)
    (found,) = torch.autograd.grad(value.sum(), first)
    moved = torch.cat([first.detach() + sign * step * torch.eye(5, dtype=torch.float64) for sign in (-1, 1)])
    differences = (rotated_iou_pairs(moved, second.expand(10, 5)) - value.detach()) / step
    return found[0].tolist(), (-differences[:5]).tolist(), differences[5:].tolist()


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(
    ("a", "b", "kinks"),
    [
        ([5, 5, 10, 4, 0.3], [5, 5, 10, 4, 0.3], True),  # identical
        ([5, 5, 10, 10, 0.3], [5, 5, 10, 10, 0.3], True),
        ([0, 0, 10, 4, 0.6], [3 * math.cos(0.6), 3 * math.sin(0.6), 10, 4, 0.6], True),  # shifted along its axis
        ([0, 0, 10, 10, 0], [10, 0, 10, 10, 0], True),  # touching along an edge
        ([0, 0, 10, 10, 0], [10, 3, 10, 20, 0], True),  # touching along a part of it
        ([0, 0, 10, 4, 0], [2, 0, 10, 8, 0], False),  # parallel
        ([5, 5, 2, 1, 0.3], [5, 5, 10, 4, 0.9], False),  # inside
        ([5, 5, 10, 4, 0.9], [5, 5, 2, 1, 0.3], False),  # around
        ([0, 0, 100, 0.01, 0.2], [1, 1, 60, 30, -0.3], False),  # thin
        ([0, 0, 100, 0.01, 0.2], [1, 1, 80, 0.01, -0.3], False),  # both thin
        ([0, 0, 10, 4, 0.2], [40, 4, 10, 4, -0.3], False),  # apart
    ],
    ids=[
        "same",
        "same-square",
        "shifted",
        "touching",
        "touching-part",
        "parallel",
        "inside",
        "around",
        "thin",
        "crossed-hairs",
        "apart",
    ],
)
def test_gradient_is_the_mean_of_both_sides(a: Row, b: Row, kinks: bool) -> None:
    found, left, right = derivatives(a, b)
    assert found == pytest.approx([(x + y) / 2 for x, y in zip(left, right, strict=True)], rel=1e-3, abs=1e-5)
    assert (left != pytest.approx(right, rel=1e-2, abs=1e-4)) == kinks


@pytest.mark.usefixtures("implementation")
def test_gradient_of_identical_boxes_is_zero() -> None:
    boxes = random_boxes(200, np.random.default_rng(8), 1e4).float()
    first, second = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()
    rotated_iou_pairs(first, second).sum().backward()
    assert first.grad.abs().max() < 1e-6
    assert second.grad.abs().max() < 1e-6


# Polygon IoU


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(("a", "b", "expected"), QUADRILATERALS.values(), ids=QUADRILATERALS)
def test_polygon_iou_known_cases(a: list[Row], b: list[Row], expected: float) -> None:
    p, q = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    for roll in range(4):
        rolled = q.roll(roll, 1)
        assert polygon_iou(p, rolled).item() == pytest.approx(expected, abs=1e-12)
        assert polygon_iou(rolled, p).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.usefixtures("implementation")
def test_polygon_iou_against_shapely() -> None:
    a, b = simple_quads(60, 1), simple_quads(60, 2)
    orientation = reference.polygon_area(a).sign()
    assert {-1, 1} == set(orientation.tolist())
    assert any(not Polygon(q).equals(Polygon(q).convex_hull) for q in a.numpy())
    expected = shapely_iou(a, b)
    np.testing.assert_allclose(polygon_iou(a, b).numpy(), expected, atol=1e-10)
    far = torch.tensor([1e5, -1e5], dtype=torch.float64)
    np.testing.assert_allclose(polygon_iou(a + far, b + far).numpy(), expected, atol=1e-8)


@pytest.mark.usefixtures("implementation")
def test_polygon_area_is_positive_clockwise_on_the_screen() -> None:
    assert reference.polygon_area(torch.tensor([SQUARE], dtype=torch.float64)).item() == 100
    assert reference.polygon_area(torch.tensor([SQUARE[::-1]], dtype=torch.float64)).item() == -100


# Assignment and convolutions: what the compiled ones are compared with, by hand


def test_assignment_by_hand() -> None:
    """Unit squares in a row and what slides over them: IoU (1 - x) / (1 + x) at distance x."""
    anchors = torch.tensor([[float(x), 0, 1, 1, 0] for x in (0, 2, 4, 6, 8)])
    cases = [
        ([], [0, 0, 0, 0, 0]),
        ([0.0], [1, 0, 0, 0, 0]),
        ([0.4], [1, 0, 0, 0, 0]),  # 0.43 is ignored, but it is the object's best
        ([0.0, 0.4], [2, 0, 0, 0, 0]),  # the later takes its best from the earlier
        ([3.0], [0, 0, 0, 0, 0]),  # touches two, overlaps none
        ([2.1, 6.6], [0, 1, 0, 2, 0]),
    ]
    for centres, expected in cases:
        boxes = torch.tensor([[x, 0, 1, 1, 0] for x in centres]).reshape(-1, 5)
        assert reference.assign_anchors(anchors, boxes, 0.5, 0.4).tolist() == expected, centres
    wide = torch.tensor([[1.0, 0, 3, 1, 0]])  # IoU 1 / 3 with the first two, equally good
    assert reference.assign_anchors(anchors, wide, 0.5, 0.4).tolist() == [1, 1, 0, 0, 0]
    two = torch.tensor([[0.0, 0, 1, 1, 0], [0.4, 0, 1, 1, 0]])
    shifted = torch.tensor([[0.4, 0, 1, 1, 0], [0.0, 0, 1, 1, 0], [0.8, 0, 1, 1, 0]])
    assert reference.assign_anchors(shifted, two, 0.5, 0.4).tolist() == [2, 1, -1]  # the last: 0.43 with the second
    assert reference.assign_anchors(anchors[:0], two, 0.5, 0.4).tolist() == []


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_winograds_matrices_hold_the_weights(size: tuple[int, int]) -> None:
    conv, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, *size)
    matrices = reference.winograd_matrices(conv.weight)
    assert (matrices.shape, matrices.dtype) == ((36, 3, 4), torch.float32)
    found = reference.winograd_convolution(x, matrices, conv.bias)
    torch.testing.assert_close(found, conv(x), rtol=0, atol=1e-5)
    constant = reference.winograd_matrices(torch.zeros(2, 2, 3, 3).index_fill(2, torch.tensor([1]), 1.0))
    assert constant.count_nonzero() > 0


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_depthwise_gradient_is_autograds(size: int) -> None:
    x, out = torch.randn(2, 5, 6, 9), torch.randn(2, 5, 6, 9)
    weight = torch.randn(5, 1, size, size, requires_grad=True)
    (expected,) = torch.autograd.grad(nn.functional.conv2d(x, weight, padding=size // 2, groups=5), weight, out)
    torch.testing.assert_close(reference.depthwise_weight_gradient(x, out, size), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 7, 1 << 19])
def test_near_pairs_come_in_blocks_and_in_order(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block is larger than allowed, none is twice, and those whose bounding circles meet are all there."""
    rng = np.random.default_rng(0)
    a, b = random_boxes(30, rng, 300), random_boxes(20, rng, 300)
    monkeypatch.setattr(reference, "_PAIRS_AT_ONCE", at_once)
    blocks = list(reference._near_pairs(a, b))
    assert max(len(i) for i, _ in blocks) <= at_once
    pairs = [pair for i, j in blocks for pair in zip(i.tolist(), j.tolist(), strict=True)]
    distance = torch.cdist(a[:, :2], b[:, :2])
    radius = (a[:, 2:4].norm(dim=1)[:, None] + b[:, 2:4].norm(dim=1)[None]) / 2
    assert pairs == [tuple(pair) for pair in (distance <= radius).nonzero().tolist()]
    assert 0 < len(pairs) < 600


def test_the_matrixs_gradients_are_the_sums_of_the_pairs() -> None:
    a, b = random_boxes(6, np.random.default_rng(1), 20), random_boxes(5, np.random.default_rng(2), 20)
    gradient = torch.randn(6, 5, dtype=torch.float64)
    i, j = torch.cartesian_prod(torch.arange(6), torch.arange(5)).unbind(1)
    for mode in ("iou", "iof"):
        of_a, of_b = reference.iou_matrix_gradients(a, b, gradient, mode)
        pairs_a, pairs_b = reference.iou_pairs_gradients(a[i], b[j], gradient.flatten(), mode)
        torch.testing.assert_close(of_a, pairs_a.reshape(6, 5, 5).sum(1))
        torch.testing.assert_close(of_b, pairs_b.reshape(6, 5, 5).sum(0))
        assert of_a.abs().max() > 0.01


@pytest.mark.parametrize("mode", ["", "IoU", "giou"])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode is '{mode}'; expected 'iou' or 'iof'"):
        reference.check_mode(mode)
