"""The box convention, and corners to boxes against the reference and by brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPoint, Polygon
from torch import Tensor

import places
from rotanext.boxes import boxes_to_corners, corners_to_boxes, regularize, wrap_angle
from rotanext.ops import rotated_iou_pairs

GOLDEN = places.GOLDEN / "functions.npz"
HALF = math.pi / 2


def random_boxes(n: int, seed: int, size: float = 100.0) -> Tensor:
    rng = np.random.default_rng(seed)
    boxes = rng.uniform([-size, -size, 0.01, 0.01, -10], [size, size, size, size, 10], (n, 5))
    return torch.from_numpy(boxes)


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        (0, 0),
        (1.5, 1.5),
        (-HALF, -HALF),
        (HALF, -HALF),
        (math.pi, 0),
        (-math.pi, 0),
        (2, 2 - math.pi),
        (-2, math.pi - 2),
        (100 * math.pi + 1, 1),
    ],
)
def test_wrap_angle(angle: float, expected: float) -> None:
    assert wrap_angle(torch.tensor([angle], dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-12)


@given(st.floats(-1e6, 1e6, width=32))
def test_wrapped_angles_stay_below_the_open_end_in_float32(angle: float) -> None:
    wrapped = wrap_angle(torch.tensor(angle, dtype=torch.float32)).item()
    assert -HALF - 1e-6 <= wrapped < HALF + 1e-9
    assert wrap_angle(torch.tensor(wrapped, dtype=torch.float32)).item() == wrapped


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([1, 2, 4, 3, 0.5], [1, 2, 4, 3, 0.5]),
        ([1, 2, 3, 4, 0.5], [1, 2, 4, 3, 0.5 - HALF]),  # turned by a quarter
        ([1, 2, 3, 4, -0.5], [1, 2, 4, 3, HALF - 0.5]),
        ([1, 2, 3, 3, 0.2], [1, 2, 3, 3, 0.2]),  # squares keep their angle
        ([1, 2, 4, 3, HALF], [1, 2, 4, 3, -HALF]),
        ([0, 0, 0, 0, 7], [0, 0, 0, 0, 7 - 2 * math.pi]),
    ],
    ids=["fits", "swap", "swap-negative", "square", "open-end", "point"],
)
def test_regularize(box: list[float], expected: list[float]) -> None:
    torch.testing.assert_close(regularize(torch.tensor([box], dtype=torch.float64)), torch.tensor([expected], dtype=torch.float64))


def test_regularize_keeps_the_rectangle() -> None:
    boxes = random_boxes(500, 1)
    regular = regularize(boxes)
    assert (regular[:, 2] >= regular[:, 3]).all()
    assert ((regular[:, 4] >= -HALF) & (regular[:, 4] < HALF)).all()
    # The same four corners, from another one on.
    distance = (boxes_to_corners(boxes)[:, :, None] - boxes_to_corners(regular)[:, None]).norm(dim=-1)
    assert distance.amin(2).max() < 1e-9


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([10, 20, 6, 4, 0], [[7, 18], [13, 18], [13, 22], [7, 22]]),
        ([10, 20, 6, 4, -HALF], [[8, 23], [8, 17], [12, 17], [12, 23]]),
        # y points down, so a positive angle turns the long edge from +x towards +y: clockwise on the screen.
        ([0, 0, 2 * math.sqrt(2), 0, math.pi / 4], [[-1, -1], [1, 1], [1, 1], [-1, -1]]),
    ],
    ids=["upright", "quarter", "clockwise"],
)
def test_boxes_to_corners(box: list[float], corners: list[list[float]]) -> None:
    found = boxes_to_corners(torch.tensor([box], dtype=torch.float64))[0]
    torch.testing.assert_close(found, torch.tensor(corners, dtype=torch.float64))


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [0, 2, 1, 3]], ids=["same", "reversed", "rolled", "crossed"]
)
def test_corners_to_boxes_returns_rectangles_in_any_corner_order(order: list[int]) -> None:
    boxes = regularize(random_boxes(300, 2))
    found = corners_to_boxes(boxes_to_corners(boxes)[:, order])
    torch.testing.assert_close(found[:, :4], boxes[:, :4], atol=1e-9, rtol=1e-9)
    assert wrap_angle(found[:, 4] - boxes[:, 4]).abs().max() < 1e-6


@given(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(-10, 10)))
def test_corners_to_boxes_round_trip(values: tuple[float, ...]) -> None:
    boxes = regularize(torch.tensor([values], dtype=torch.float64))
    found = corners_to_boxes(boxes_to_corners(boxes))
    assert rotated_iou_pairs(boxes, found).item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(found, regularize(found)), "found boxes obey the convention"


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([[5, 5]] * 4, [5, 5, 0, 0, 0]),
        ([[0, 0], [10, 0], [10, 0], [0, 0]], [5, 0, 10, 0, 0]),
        ([[0, 0], [3, 3], [1, 1], [2, 2]], [1.5, 1.5, 3 * math.sqrt(2), 0, math.pi / 4]),
        ([[0, 0], [4, 0], [4, 0], [0, 2]], [2, 1, 4, 2, 0]),
    ],
    ids=["point", "flat", "diagonal-line", "triangle"],
)
def test_corners_to_boxes_of_collapsed_shapes(corners: list[list[float]], expected: list[float]) -> None:
    found = corners_to_boxes(torch.tensor([corners], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), atol=1e-9, rtol=1e-9)


def test_corners_to_boxes_without_any() -> None:
    assert corners_to_boxes(torch.zeros(0, 4, 2)).shape == (0, 5)
    assert boxes_to_corners(torch.zeros(0, 5)).shape == (0, 4, 2)


def test_corners_to_boxes_of_whole_numbers_gives_float32() -> None:
    assert corners_to_boxes(torch.tensor([[[0, 0], [4, 0], [4, 2], [0, 2]]])).dtype == torch.float32


def test_corners_to_boxes_has_the_least_area() -> None:
    quads = np.random.default_rng(3).uniform(0, 100, (200, 4, 2))
    found = corners_to_boxes(torch.from_numpy(quads))
    for quad, box in zip(quads, found, strict=True):
        least = MultiPoint(quad).minimum_rotated_rectangle.area
        assert (box[2] * box[3]).item() == pytest.approx(least, rel=1e-9)
        assert Polygon(boxes_to_corners(box).numpy()).buffer(1e-6).contains(MultiPoint(quad))


def test_corners_to_boxes_against_the_reference() -> None:
    golden = np.load(GOLDEN)
    quads, expected = torch.from_numpy(golden["quad"]).reshape(-1, 4, 2), torch.from_numpy(golden["quad_rbox"])
    found = corners_to_boxes(quads)
    same = ((found - expected).abs() < 1e-3).all(1)
    assert same.sum() > 50
    for i in (~same).nonzero()[:, 0].tolist():
        # Two rectangles of (nearly) the same least area: either will do, if it holds the corners.
        assert (found[i, 2] * found[i, 3]).item() == pytest.approx((expected[i, 2] * expected[i, 3]).item(), rel=1e-4)
        assert Polygon(boxes_to_corners(found[i]).numpy()).buffer(1e-3).contains(MultiPoint(quads[i].numpy()))
