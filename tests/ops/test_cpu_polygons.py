"""Overlapping quadrilaterals by the compiled operators and the readable ones, against the matrix of their IoUs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rotanext import ops
from rotanext.ops import polygon_iou
from shapes import DART, INF, NAN, QUADRILATERALS, SQUARE, Row, shapely_iou, simple_quads

pytestmark = pytest.mark.usefixtures("implementation")


def overlapping(a: Tensor, b: Tensor, *least: float) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.overlapping_polygons`, which takes and gives arrays."""
    i, j, iou = map(torch.from_numpy, ops.overlapping_polygons(a.numpy(), b.numpy(), *least))
    return i, j, iou


def test_overlapping_polygons_are_those_of_the_matrix() -> None:
    rng = np.random.default_rng(3)
    shapes = [SQUARE, SQUARE[::-1], DART, [[0, 0], [10, 10], [10, 10], [0, 0]], [[0, 0], [12, 3], [9, 14], [-4, 6]]]
    a, b = (
        torch.tensor(
            np.array([shapes[k] for k in rng.integers(0, 5, n)]) * rng.uniform(0.1, 3, (n, 1, 1)) + rng.uniform(0, 40, (n, 1, 2))
        )
        for n in (120, 90)
    )
    a[::3] = a[::3] @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    b[5], b[9, 2, 0], a[7, 1, 1], b[11] = a[3], NAN, INF, b[12]
    i, j, iou = overlapping(a, b)
    matrix = polygon_iou(a, b)
    wanted = (matrix > 1e-12).nonzero(as_tuple=True)
    assert len(i) > 300
    assert torch.equal(torch.stack([i, j]), torch.stack(wanted))
    torch.testing.assert_close(iou, matrix[wanted], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="must be"):
        overlapping(a[0], b)


@pytest.mark.parametrize(("a", "b", "expected"), QUADRILATERALS.values(), ids=QUADRILATERALS)
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_known_pairs(a: list[Row], b: list[Row], expected: float, offset: float) -> None:
    p, q = torch.tensor([a], dtype=torch.float64) + offset, torch.tensor([b], dtype=torch.float64) + offset
    for first, second in ((p, q), (q, p)):
        i, j, iou = overlapping(first, second)
        assert (i.tolist(), j.tolist()) == (([0], [0]) if expected else ([], []))
        assert iou.tolist() == pytest.approx([expected] if expected else [], abs=1e-9)


def test_only_pairs_above_the_least_overlap() -> None:
    a, b = simple_quads(40, 1), simple_quads(50, 2)
    expected = shapely_iou(a, b)
    counts = []
    for least in (1e-12, 0.1, 0.3):
        i, j, iou = overlapping(a, b, least)
        assert i.dtype == j.dtype == torch.int64
        assert torch.equal(torch.stack([i, j]), torch.from_numpy(np.argwhere(expected > least).T))
        np.testing.assert_allclose(iou.numpy(), expected[i, j], atol=1e-10)
        counts.append(len(i))
    assert counts[0] > counts[1] > counts[2] > 0


def test_two_copies_overlap_by_1_which_is_not_above_1() -> None:
    square = torch.tensor([SQUARE, DART], dtype=torch.float32)
    assert overlapping(square, square, 1.0)[0].tolist() == []
    i, j, iou = overlapping(square, square, 0.999)
    assert (i.tolist(), j.tolist(), iou.tolist()) == ([0, 1], [0, 1], [1.0, 1.0])
    assert iou.dtype == torch.float64


def test_no_polygons() -> None:
    none, some = torch.zeros(0, 4, 2), torch.tensor([SQUARE], dtype=torch.float64)
    for a, b in ((none, some), (some, none), (none, none)):
        assert [len(values) for values in overlapping(a, b)] == [0, 0, 0]
