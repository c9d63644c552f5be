"""Drawing: visible, stable, and never in the way."""

import math

import cv2
import numpy as np
import pytest
import torch

from rotanext.detections import Detections
from rotanext.images.drawing import class_colour, contact_sheet, draw_detections, draw_objects, draw_outline
from rotanext.objects import Objects

NAMES = tuple(f"class-{i}" for i in range(30))


def detections(boxes: list[list[float]], score: float = 0.9, label: int = 0) -> Detections:
    count = len(boxes)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5),
        torch.full((count,), score),
        torch.full((count,), label, dtype=torch.int64),
        NAMES,
    )


def close(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where an image has (nearly) that colour."""
    return (np.abs(image.astype(int) - np.array(colour)) < 40).all(-1)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 7), (40, 40), (400, 300)], ids=str)
@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [[20, 20, 30, 10, 0.5]],
        [[1e7, -1e7, 3e7, 10, 0.5], [1e30, 0, 1e30, 5, 0], [-5e4, 20, 2e5, 8, 0.01]],
        [[math.nan, 1, 2, 3, 0], [math.inf, 1, 2, 3, 0], [5, 5, 0, 0, 0]],
        [[7 * (i % 60), 3 * (i // 60), 9, 4, i / 100] for i in range(3000)],
    ],
    ids=["none", "one", "far", "broken", "thousands"],
)
def test_nothing_breaks_and_the_input_stays(size: tuple[int, int], boxes: list[list[float]]) -> None:
    image = np.full((*size, 3), 77, np.uint8)
    before = image.copy()
    drawn = draw_detections(image, detections(boxes))
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    if not boxes:
        np.testing.assert_array_equal(drawn, image)


def test_the_outline_lies_on_the_box() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    box = [[100.0, 90.0, 120.0, 40.0, 0.6]]
    drawn = draw_detections(image, detections(box, label=1), legend=False)
    ys, xs = np.nonzero(close(drawn, class_colour(1)))
    corners = detections(box).corners[0].numpy().astype(np.float32)
    away = [abs(cv2.pointPolygonTest(corners, (float(x) + 0.5, float(y) + 0.5), True)) for x, y in zip(xs, ys, strict=True)]
    # The score is written above the highest corner; all else is outline.
    on = np.array(away) < 1.5
    assert on.sum() > 200
    assert on.mean() > 0.7


@pytest.mark.parametrize(
    ("low", "high", "lit"),
    [
        (10.5, 20.5, {10, 20}),  # in the middle of a row of pixels: that row
        (10.0, 20.0, {9, 10, 19, 20}),  # between two rows: both
        (0.5, 20.5, {0, 20}),  # (0, 0) is the outer corner of the first pixel, (0.5, 0.5) its middle
        (-0.5, 20.5, {20}),
    ],
)
def test_an_outline_covers_the_pixels_about_its_edges(low: float, high: float, lit: set[int]) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    draw_outline(image, np.array([[low, low], [high, low], [high, high], [low, high]]), (255, 255, 255))
    for column in (image[:, 15, 0], image[15, :, 0]):
        assert set(np.flatnonzero(column > 100).tolist()) == lit


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_line_moves_by_parts_of_a_pixel(width: int) -> None:
    # OpenCV's wide lines are filled polygons, whose soft edges are right to a fifth of a pixel
    for part in np.arange(0, 1, 1 / 16):
        image = np.zeros((40, 40, 3), np.uint8)
        draw_outline(image, np.array([[-9, 15.5 + part], [99, 15.5 + part], [99, 90], [-9, 90]]), (255, 255, 255), width)
        column = image[:, 20, 0].astype(float)
        assert float((column * (np.arange(40) + 0.5)).sum() / column.sum()) == pytest.approx(
            15.5 + part, abs=0.1 if width == 1 else 0.2
        )


def test_seams_and_dashes() -> None:
    square = np.array([[10, 10], [50, 10], [50, 50], [10, 50]], float)
    plain, seam, dashed = (np.full((60, 60, 3), 128, np.uint8) for _ in range(3))
    draw_outline(plain, square, (255, 255, 255), 2)
    draw_outline(seam, square, (255, 255, 255), 2, halo=2)
    draw_outline(dashed, square, (255, 255, 255), 2, dashed=True)
    assert (seam[plain > 200] > 150).all()  # the line is the same, but for its soft edges
    assert 0.8 < (seam < 60).sum() / (plain > 200).sum() < 2.5  # two pixels of line, two of seam on either side
    assert set(map(tuple, np.argwhere(dashed > 200))) <= set(map(tuple, np.argwhere(plain > 128)))
    assert 0.4 < (dashed > 200).sum() / (plain > 200).sum() < 0.8
    assert (dashed[10, 10] > 200).all()  # corners are drawn
    assert (dashed[49, 49] > 200).all()


def test_a_box_that_reaches_far_outside_keeps_its_place_inside() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_detections(image, detections([[0.0, 30.0, 4e6, 20.0, 0.0]]), legend=False)
    # A line one pixel wide between two rows of pixels colours both.
    assert set(np.nonzero(drawn[:, 40].max(-1) > 60)[0].tolist()) == {19, 20, 39, 40}


def test_the_threshold_hides() -> None:
    image = np.zeros((90, 90, 3), np.uint8)
    low = detections([[40, 40, 30, 20, 0]], score=0.2)
    assert not draw_detections(image, low).any()
    assert draw_detections(image, low, score_threshold=0.1).any()


def test_the_legend_avoids_objects_and_small_images() -> None:
    image = np.full((600, 600, 3), 120, np.uint8)
    left = detections([[120, y, 200, 40, 0] for y in range(30, 600, 50)])
    plain, with_legend = draw_detections(image, left, legend=False), draw_detections(image, left)
    changed = (plain != with_legend).any(-1)
    assert changed.any()
    assert not changed[:, :230].any()
    tiny = np.full((50, 50, 3), 120, np.uint8)
    one = detections([[25, 25, 20, 10, 0]])
    np.testing.assert_array_equal(draw_detections(tiny, one), draw_detections(tiny, one, legend=False))


def test_scores_are_written_for_few_objects_only() -> None:
    image = np.zeros((800, 800, 3), np.uint8)
    boxes = [[60 + 90 * (i % 8), 60 + 90 * (i // 8), 70, 40, 0.0] for i in range(41)]
    few, many = (draw_detections(image, detections(boxes[:n]), legend=False) for n in (40, 41))
    # The first row's letters lie above their boxes, whose upper edge is at y = 40.
    assert few[:37, :].any()
    assert not many[:37, :].any()


def test_lines_grow_with_the_image() -> None:
    def share(side: int) -> float:
        image = np.zeros((side, side, 3), np.uint8)
        scaled = detections([[side / 2, side / 2, side / 2, side / 4, 0.3]])
        return float((draw_detections(image, scaled, legend=False).max(-1) > 60).mean())

    assert 0.4 < share(2400) / share(400) < 2.5


def test_large_objects_have_wide_lines_and_scores_keep_apart() -> None:
    def lit(box: list[float]) -> int:
        canvas = draw_detections(np.zeros((800, 800, 3), np.uint8), detections([box]), legend=False)
        return int((canvas[395:405].max(-1) > 60).sum())  # across both upright sides

    assert lit([400, 400, 300, 200, 0]) >= 1.5 * lit([400, 400, 60, 30, 0]) > 0
    # Two boxes in one place: only the better one's score is written, in the rows above them.
    image = np.zeros((800, 800, 3), np.uint8)
    boxes = [[400, 400, 300, 200, 0], [400, 400, 301, 201, 0]]
    one, both = (draw_detections(image, detections(boxes[:n]), legend=False)[:296] for n in (1, 2))
    assert one.max() > 200
    np.testing.assert_array_equal(both, one)


def test_colours_are_distinct_and_stable() -> None:
    colours = [class_colour(i) for i in range(60)]
    assert len(set(colours)) == 60
    assert colours[0] == (240, 228, 66)
    assert min(sum(abs(x - y) for x, y in zip(a, b, strict=True)) for i, a in enumerate(colours[:20]) for b in colours[:i]) > 50


def test_difficult_objects_are_dashed() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    corners = np.array([[[40, 60], [160, 60], [160, 120], [40, 120]]], float)
    easy, hard = (draw_objects(image, Objects(corners, ["a"], np.array([flag])), ("a", "b"), legend=False) for flag in (0, 1))
    assert 0.3 < (hard.max(-1) > 60).sum() / (easy.max(-1) > 60).sum() < 0.8
    unknown = Objects(corners, ["zebra"], np.array([0]))
    np.testing.assert_array_equal(draw_objects(image, unknown, ("a", "b")), image)


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        draw_detections(np.zeros((4, 4)), detections([]))  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "columns", "grid"), [(1, 4, (1, 1)), (5, 2, (3, 2)), (6, 3, (2, 3))])
def test_contact_sheet(count: int, columns: int, grid: tuple[int, int]) -> None:
    images = [np.full((20 + k, 40, 3), 10 * k, np.uint8) for k in range(count)]
    sheet = contact_sheet(images, columns, gap=2)
    high = 20 + count - 1
    assert sheet.shape == (grid[0] * (high + 2) + 2, grid[1] * 42 + 2, 3)
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([], 2)


def test_contact_sheet_reduces_what_is_too_large() -> None:
    sheet = contact_sheet([np.zeros((1, 5000, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)], 1)
    assert sheet.shape[1] <= 1024 + 12
