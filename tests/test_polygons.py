"""Geometry in NumPy: tables of cases, the same as the torch version of boxes.py, and shapely where that knows the answer."""

import math
import subprocess
import sys

import numpy as np
import pytest
import shapely
import torch

from rotanext import boxes as tensors
from rotanext.polygons import (
    apart,
    area_inside,
    as_rectangles,
    boxes_to_corners,
    convex_hull,
    corner_distance,
    corners_to_boxes,
    crosses,
    least_rectangle,
    least_rectangles,
    off_rectangle,
    regularize,
    rotation,
    signed_area,
    upright,
    wrap_angle,
)

HALF = math.pi / 2
SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4]]  # clockwise on the screen
QUADS = {
    # corners, signed area, whether they cross
    "square": (SQUARE, 16, False),
    "the other way round": (SQUARE[::-1], -16, False),
    "from another corner": (SQUARE[2:] + SQUARE[:2], 16, False),
    "concave": ([[0, 0], [4, 0], [1, 1], [0, 4]], 4, False),
    "crossed, first and third side": ([[0, 0], [4, 4], [4, 0], [0, 4]], 0, True),
    "crossed, second and fourth side": ([[0, 0], [4, 0], [0, 4], [4, 4]], 0, True),
    "crossed, one loop the larger": ([[0, 0], [6, 4], [6, 0], [0, 2]], -6, True),
    "a corner on a side touches, and does not cross": ([[0, 0], [4, 0], [2, 0], [2, 3]], 3, False),
    "two equal corners": ([[0, 0], [4, 0], [4, 0], [0, 4]], 8, False),
    "there and back": ([[0, 0], [4, 0], [4, 0], [0, 0]], 0, False),
    "a line": ([[0, 0], [1, 1], [3, 3], [2, 2]], 0, False),
    "a point": ([[5, 5]] * 4, 0, False),
}


def random_boxes(count: int, seed: int) -> np.ndarray:
    """Boxes with any angle and edge order."""
    return np.random.default_rng(seed).uniform([-500, -500, 0.01, 0.01, -10], [500, 500, 300, 300, 10], (count, 5))


# Outlines


@pytest.mark.parametrize("offset", [0.0, 1e6], ids=["at the origin", "far away"])
@pytest.mark.parametrize("name", QUADS)
def test_area_and_crossing(name: str, offset: float) -> None:
    corners, area, crossed = QUADS[name]
    moved = np.array([corners], np.float64) + offset
    assert signed_area(moved).tolist() == [area]
    assert crosses(moved).tolist() == [crossed]


def test_area_of_any_number_of_points() -> None:
    assert signed_area([[0, 0], [2, 0], [0, 2]]) == 2
    circle = 10 * np.stack([np.cos(turns := np.linspace(0, 2 * math.pi, 1000, endpoint=False)), np.sin(turns)], 1)
    assert signed_area(np.stack([circle, circle[::-1]])) == pytest.approx([100 * math.pi, -100 * math.pi], rel=1e-4)


def test_crossing_is_what_shapely_calls_not_simple() -> None:
    corners = np.random.default_rng(0).uniform(0, 100, (3000, 4, 2))
    np.testing.assert_array_equal(crosses(corners), ~shapely.is_valid(shapely.polygons(corners)))


@pytest.mark.parametrize(
    ("corners", "inside"),
    [
        ([[1, 1], [3, 1], [3, 2], [1, 2]], 2),  # all of it
        ([[-2, 1], [2, 1], [2, 3], [-2, 3]], 4),  # half, over the left edge
        ([[9, 5], [11, 5], [11, 8], [9, 8]], 1),  # over the right and the lower edge
        ([[9, 8], [11, 8], [11, 5], [9, 5]], 1),  # the other way round
        ([[-50, -50], [50, -50], [50, 50], [-50, 50]], 60),  # the whole window
        ([[-3, 0], [-1, 0], [-1, 5], [-3, 5]], 0),  # beside it
        ([[-2, -2], [2, -2], [-2, 2], [-2, 0]], 0),  # touches a corner
        ([[5, 7]] * 4, 0),  # a point
    ],
)
def test_area_inside_a_window_of_10_by_6(corners: list[list[float]], inside: float) -> None:
    assert area_inside(np.array([corners], np.float64), 10, 6) == pytest.approx([inside], abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        (SQUARE, SQUARE, 0),
        (SQUARE, SQUARE[::-1], 0),  # any order
        (SQUARE, [[0, 0], [4, 0], [4, 4], [3, 8]], 4),  # the corner that is furthest from any
        ([[0, 0]] * 4, SQUARE, 0),  # of the first one's corners only
    ],
)
def test_corner_distance(a: list[list[float]], b: list[list[float]], distance: float) -> None:
    assert corner_distance(np.array([a], np.float64), np.array([b], np.float64)).tolist() == [distance]


def test_rotation_turns_clockwise_on_the_screen() -> None:
    np.testing.assert_allclose(np.array([[2, 0], [0, 1]]) @ rotation(HALF).T, [[0, 2], [-1, 0]], atol=1e-15)
    box = np.array([0, 0, 6, 2, 0.7])
    np.testing.assert_allclose(boxes_to_corners([0, 0, 6, 2, 0]) @ rotation(0.7).T, boxes_to_corners(box), atol=1e-15)


# Angles and boxes


@pytest.mark.parametrize(
    ("angle", "start", "slack", "expected"),
    [
        (1.5, -HALF, 0, 1.5),
        (HALF, -HALF, 0, -HALF),  # the end is open
        (-2.0, -HALF, 0, math.pi - 2),
        (-0.5, 0, 0, math.pi - 0.5),
        (math.pi, 0, 0, 0),
        (math.pi - 1e-9, 0, 1e-8, 0),  # would be rounded to the end
        (-1e-9, 0, 1e-8, 0),
        (-1e-9, 0, 0, math.pi - 1e-9),
    ],
)
def test_wrap_angle(angle: float, start: float, slack: float, expected: float) -> None:
    assert float(wrap_angle(angle, start, slack)) == pytest.approx(expected, abs=1e-12)


def test_upright() -> None:
    assert upright((1, 2), (5, 4)).tolist() == [[1, 2], [5, 2], [5, 4], [1, 4]]
    assert upright(np.zeros((3, 2)), np.ones((3, 2))).shape == (3, 4, 2)


@pytest.mark.parametrize(
    ("corners", "box", "off"),
    [
        ([[0, 0], [4, 0], [4, 2], [0, 2]], [2, 1, 4, 2, 0], 0),
        ([[4, 0], [4, 2], [0, 2], [0, 0]], [2, 1, 2, 4, HALF], 0),  # from another corner: another first side
        ([[4, 2], [0, 2], [0, 0], [4, 0]], [2, 1, 4, 2, math.pi], 0),  # the angle tells it from its half turn
        ([[1, 0], [1, 0], [1, 2], [1, 2]], [1, 1, 0, 2, 0], 0),  # no width: the other side gives the angle
        ([[0, 0], [0, 2], [4, 2], [4, 0]], [2, 1, 2, 4, HALF], 4),  # counter-clockwise: not this rectangle
    ],
)
def test_as_rectangles(corners: list[list[float]], box: list[float], off: float) -> None:
    given = np.array([corners], np.float64)
    np.testing.assert_allclose(as_rectangles(given), [box], atol=1e-12)
    assert off_rectangle(given) == pytest.approx([off], abs=1e-12)


# The same as with tensors


def test_boxes_are_those_of_torch() -> None:
    boxes = np.concatenate([random_boxes(2000, 1), [[1, 2, 3, 3, HALF], [0, 0, 0, 0, 7], [5, 5, 1, 2, -HALF]]])
    given = torch.from_numpy(boxes)
    np.testing.assert_allclose(wrap_angle(boxes[:, 4]), tensors.wrap_angle(given[:, 4]).numpy(), atol=1e-15)
    np.testing.assert_allclose(regularize(boxes), tensors.regularize(given).numpy(), atol=1e-12)
    np.testing.assert_allclose(boxes_to_corners(boxes), tensors.boxes_to_corners(given).numpy(), atol=1e-12)
    assert boxes_to_corners(boxes.reshape(-1, 1, 5)).shape == (len(boxes), 1, 4, 2)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [0, 2, 1, 3]])
def test_boxes_of_rectangles_are_those_of_torch(order: list[int]) -> None:
    corners = boxes_to_corners(random_boxes(2000, 2))[:, order]
    found, expected = corners_to_boxes(corners), tensors.corners_to_boxes(torch.from_numpy(corners)).numpy()
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1e-9)
    turn = wrap_angle(found[:, 4] - expected[:, 4])
    assert np.abs(turn * found[:, 2]).max() < 1e-9


@pytest.mark.parametrize("kind", ["any", "whole numbers", "far away", "collapsed"])
def test_boxes_of_quadrilaterals_are_those_of_torch_or_equally_small(kind: str) -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 1000, (5000, 4, 2))
    if kind == "whole numbers":  # many with equal corners, or all on one line
        corners = rng.integers(0, 4, (5000, 4, 2)).astype(np.float64)
    elif kind == "far away":
        corners = corners / 100 + 1e6
    elif kind == "collapsed":
        corners[:, 2:] = corners[:, :2]
        corners[::2] = corners[::2, :1]
    found, expected = corners_to_boxes(corners), tensors.corners_to_boxes(torch.from_numpy(corners)).numpy()
    np.testing.assert_allclose(found[:, 2] * found[:, 3], expected[:, 2] * expected[:, 3], rtol=2e-9, atol=1e-9)
    np.testing.assert_array_equal(found, regularize(found))
    local = (corners - found[:, None, :2]) @ np.stack([rotation(angle) for angle in found[:, 4]])
    assert (np.abs(local) <= found[:, None, 2:4] / 2 + 1e-8).all(), "every corner is inside"
    # Where only one rectangle is the least, it is this one.
    apart = np.abs(found - expected)
    apart[:, 4] = np.abs(wrap_angle(apart[:, 4]))
    same = (apart < 1e-6).all(1)
    assert same.mean() > (0.7 if kind == "whole numbers" else 0.85)


# Rectangles of least area


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ([[5, 5]] * 4, [5, 5, 0, 0, 0]),
        ([[0, 0], [10, 0], [10, 0], [0, 0]], [5, 0, 10, 0, 0]),
        ([[0, 0], [3, 3], [1, 1], [2, 2]], [1.5, 1.5, 3 * math.sqrt(2), 0, math.pi / 4]),
        # Equally small ones along each side of a triangle: the first side's.
        ([[0, 0], [4, 0], [1, 1], [0, 4]], [2, 2, 4, 4, 0]),
        ([[4, 0], [1, 1], [0, 4], [0, 0]], [2, 2, 4, 4, -HALF]),
        ([[0, 0], [4, 0], [4, 0], [0, 2]], [2, 1, 4, 2, 0]),
        # A square has two angles: the first side's.
        ([[0, 2], [2, 0], [4, 2], [2, 4]], [2, 2, 2 * math.sqrt(2), 2 * math.sqrt(2), -math.pi / 4]),
        ([[2, 0], [4, 2], [2, 4], [0, 2]], [2, 2, 2 * math.sqrt(2), 2 * math.sqrt(2), math.pi / 4]),
    ],
    ids=["point", "flat", "line", "concave", "concave from another corner", "triangle", "square", "square from another corner"],
)
def test_boxes_of_collapsed_and_equal_shapes(corners: list[list[float]], box: list[float]) -> None:
    np.testing.assert_allclose(corners_to_boxes([corners]), [box], atol=1e-9)


def test_ties_are_no_matter_of_rounding() -> None:
    """A quadrilateral and the same one moved by fractions have the same rectangle, though three are equally small."""
    rng = np.random.default_rng(4)
    concave = np.array([[0, 0], [41.3, 7.7], [12.9, 11.1], [3.1, 29.9]])
    shifts = rng.uniform(-1000, 1000, (500, 1, 2))
    found = corners_to_boxes(concave + shifts)
    np.testing.assert_allclose(found[:, 2:], np.broadcast_to(corners_to_boxes(concave[None])[:, 2:], (500, 3)), atol=1e-9)


def test_no_boxes() -> None:
    none = np.zeros((0, 4, 2))
    assert corners_to_boxes(none).shape == (*boxes_to_corners(np.zeros((0, 5))).shape[:1], 5)
    assert least_rectangles(none).shape == upright(none[:, 0], none[:, 0]).shape == (0, 4, 2)
    assert all(len(function(none)) == 0 for function in (signed_area, crosses, as_rectangles, off_rectangle))
    assert len(area_inside(none, 5, 5)) == len(corner_distance(none, none)) == 0


def test_least_rectangles_begin_near_the_first_corner() -> None:
    corners = boxes_to_corners(random_boxes(500, 5))
    for start in range(4):
        begun = np.roll(corners, -start, 1)
        np.testing.assert_allclose(least_rectangles(begun), begun, atol=1e-9)
    turned = least_rectangles(corners[:, ::-1])  # clockwise, whatever the order
    assert (signed_area(turned) > 0).all()
    np.testing.assert_allclose(turned[:, 0], corners[:, 3], atol=1e-9)


@pytest.mark.parametrize(
    ("points", "rectangle"),
    [
        ([[4, 2], [0, 0], [4, 0], [0, 2], [2, 1], [4, 1]], [[0, 0], [4, 0], [4, 2], [0, 2]]),  # one inside, one on a side
        ([[0, 0], [4, 0], [0, 4]], [[0, 0], [4, 0], [4, 4], [0, 4]]),  # of three equally small, along the first edge
        ([[0, 1], [1, 0], [2, 1], [1, 2], [1, 1]], [[0, 1], [1, 0], [2, 1], [1, 2]]),
        ([[0, 0], [1, 1], [2, 2], [3, 3]], None),  # no area
        ([[1, 1]] * 5, None),
    ],
)
def test_least_rectangle(points: list[list[float]], rectangle: list[list[float]] | None) -> None:
    found = least_rectangle(np.array(points, np.float64))
    if found is None or rectangle is None:
        assert found is rectangle
    else:
        np.testing.assert_allclose(found, rectangle, atol=1e-12)


def test_least_rectangle_of_four_points_is_that_of_the_box() -> None:
    corners = np.random.default_rng(6).uniform(0, 100, (300, 4, 2))
    areas = [abs(float(signed_area(found))) for each in corners if (found := least_rectangle(each)) is not None]
    np.testing.assert_allclose(areas, corners_to_boxes(corners)[:, 2:4].prod(1), rtol=1e-8)


def test_convex_hull() -> None:
    points = np.array([[2, 1], [0, 0], [4, 0], [4, 2], [0, 2], [2, 0], [4, 2]], np.float64)
    assert convex_hull(points).tolist() == [[0, 0], [4, 0], [4, 2], [0, 2]]
    assert len(convex_hull(points[:1])) < 3
    cloud = np.random.default_rng(7).normal(size=(500, 2))
    hull = convex_hull(cloud)
    assert signed_area(hull) == pytest.approx(shapely.convex_hull(shapely.multipoints(cloud)).area)


# Who loads torch


@pytest.mark.parametrize("module", ["polygons", "labels.convert", "data.dota", "data.split", "geo.footprints", "synthetic.scenes"])
def test_labels_are_read_without_torch(module: str) -> None:
    code = f"import sys, rotanext.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("shift", "degrees", "expected"),
    [
        ((0, 0), 0, False),  # the same
        ((3, 0), 0, False),  # overlapping by a strip
        ((4, 0), 0, True),  # a common side
        ((4, 2), 0, True),  # a common corner
        ((0, 0), 30, False),
        ((3.4, 0), 90, True),  # upright beside lying: 2 + 1 = 3 apart
        ((2.9, 0), 90, False),
        ((2.3, -2.3), 45, True),  # their upright boxes overlap, a side of the turned one parts them
    ],
)
def test_rectangles_that_a_side_parts(shift: tuple[float, float], degrees: float, expected: bool) -> None:
    one = np.array([[-2.0, -1], [2, -1], [2, 1], [-2, 1]])
    other = one @ rotation(math.radians(degrees)).T + shift
    for a, b in ((one, other), (other, one), (one[::-1], other), (one + 1e5, other + 1e5)):
        assert apart(a, b[None]).tolist() == [expected]


def test_apart_of_many_and_of_none() -> None:
    one = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert apart(one, np.zeros((0, 4, 2))).shape == (0,)
    assert apart(one, np.stack([one + 3, one + 0.5, one - (1, 0)])).tolist() == [True, False, True]
    triangle = np.array([[0.2, 0.2], [0.2, 0.2], [0.8, 0.2], [0.2, 0.8]])  # two corners are one
    assert apart(one, triangle[None]).tolist() == [False]
    assert apart(triangle, one[None]).tolist() == [False]


def test_apart_agrees_with_the_overlap_of_random_rectangles() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(0, 30, (400, 2)), rng.uniform(1, 15, (400, 2)), rng.uniform(-4, 4, 400)])
    corners = boxes_to_corners(boxes)
    shapes = [shapely.Polygon(c) for c in corners]
    for at in range(0, 400, 10):
        expected = [shapes[at].intersection(other).area == 0 for other in shapes]
        assert apart(corners[at], corners).tolist() == expected
