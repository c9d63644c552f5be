"""Pasted objects: found where their corners are, on free ground, from classes that need them."""

import numpy as np
import pytest

from rotanext.data.augment import Example
from rotanext.data.paste import Cutting, Window, _cover, cut_out, free_place, paste, random_turn, stock_of
from rotanext.polygons import apart, boxes_to_corners, corners_to_boxes


def box(cx: float, cy: float, w: float, h: float, degrees: float = 0.0) -> np.ndarray:
    return boxes_to_corners(np.array([cx, cy, w, h, np.radians(degrees)]))


def source(degrees: float = 25.0) -> Example:
    """A black ship of 40 x 20 on black, a soft disc in red, green and blue inside its first three corners; an object beside it."""
    corners = box(60.5, 50.25, 40, 20, degrees)
    pixels = np.zeros((100, 120, 3), np.uint8)
    y, x = (np.arange(8 * n) / 8 + 1 / 16 for n in (100, 120))
    for channel, (cx, cy) in enumerate(inner(corners)):
        disc = (x[None] - cx) ** 2 + (y[:, None] - cy) ** 2 < 2.5**2
        pixels[..., channel] = 255 * disc.reshape(100, 8, 120, 8).mean((1, 3))
    return Example(pixels, np.stack([corners, box(110, 90, 6, 6)]), np.array([3, 5]))


def inner(corners: np.ndarray) -> np.ndarray:
    """Points `[3, 2]` near the first three corners, a quarter of the way to the middle."""
    return corners[:3] + (corners.mean(0) - corners[:3]) / 4


def target(*boxes: np.ndarray, ground: int = 30) -> Example:
    return Example(np.full((150, 200, 3), ground, np.uint8), np.array(boxes).reshape(-1, 4, 2), np.arange(len(boxes)))


def find(pixels: np.ndarray) -> np.ndarray:
    """Centroids `[3, 2]` of the three channels."""
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    shares = pixels / pixels.sum((0, 1))
    return np.stack([(shares * x[..., None]).sum((0, 1)), (shares * y[..., None]).sum((0, 1))], 1)


def test_the_discs_are_found_where_they_were_drawn() -> None:
    assert np.abs(find(source().pixels) - inner(source().corners[0])).max() < 0.03


@pytest.mark.parametrize("degrees", [0, 33, 90, -180, 150.5, -71])
@pytest.mark.parametrize("lying", [25.0, -60.0, 0.0])
def test_corners_go_with_their_pixels(degrees: float, lying: float) -> None:
    cutting = cut_out(source(lying), 0)
    assert cutting is not None
    found = paste(target(ground=0), cutting, np.array([101.3, 72.8]), degrees)
    corners = found.corners[-1]
    np.testing.assert_allclose(corners.mean(0), [101.3, 72.8], atol=1e-9)
    assert np.abs(find(found.pixels) - inner(corners)).max() < 0.1
    assert found.labels.tolist() == [3]
    np.testing.assert_allclose(corners_to_boxes(corners[None])[0, 2:4], [40, 20])


def test_the_ground_beyond_the_margin_is_left_alone() -> None:
    before = target(box(20, 20, 10, 10))
    cutting = cut_out(source(), 0)
    assert cutting is not None
    found = paste(before, cutting, np.array([100.0, 75.0]), 30)
    assert (before.pixels == 30).all(), "the source is not written to"
    changed = np.argwhere((found.pixels != 30).any(-1))[:, ::-1] + 0.5
    reach = np.hypot(20 + cutting.margin, 10 + cutting.margin)
    assert np.linalg.norm(changed - (100, 75), axis=1).max() <= reach + 1
    np.testing.assert_array_equal(found.corners[0], before.corners[0])
    assert found.labels.tolist() == [0, 3]


def test_the_margin_fades() -> None:
    cover = _cover(np.array([20.0, 10.0, 20.0, 8.0, 0.0]), 4.0, Window(0, 0, 40, 20))
    assert cover.shape == (20, 40)
    np.testing.assert_allclose(cover[10, :20], [0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1] * 10)
    np.testing.assert_allclose(cover[:7, 20], [0, 0, 0.125, 0.375, 0.625, 0.875, 1])
    turned = _cover(np.array([20.0, 10.0, 8.0, 20.0, np.pi / 2]), 4.0, Window(0, 0, 40, 20))
    np.testing.assert_allclose(turned, cover, atol=1e-12)


def test_places_are_free_and_inside() -> None:
    cutting = cut_out(source(), 0)
    assert cutting is not None
    taken = np.stack([box(60, 70, 90, 20, 10), box(150, 30, 30, 30)])
    rng, places = np.random.default_rng(0), []
    for _ in range(200):
        degrees = random_turn(rng, False)
        centre = free_place(cutting, (200, 150), taken, degrees, rng)
        if centre is not None:
            corners = paste(target(*taken), cutting, centre, degrees).corners[-1]
            assert apart(corners, taken).all()
            assert corners.min() >= cutting.margin * 0.99
            assert (corners.max(0) <= np.array([200, 150]) - cutting.margin * 0.99).all()
            places.append(centre)
    assert len(places) > 150
    assert (np.std(places, axis=0) > 20).all(), "all over the image"


def test_no_place() -> None:
    cutting = cut_out(source(), 0)
    assert cutting is not None
    rng = np.random.default_rng(0)
    assert free_place(cutting, (200, 150), box(100, 75, 200, 150)[None], 0.0, rng) is None
    assert free_place(cutting, (40, 150), np.zeros((0, 4, 2)), -25.0, rng) is None  # 40 and a margin are more than 40
    assert free_place(cutting, (40, 150), np.zeros((0, 4, 2)), 65.0, rng) is not None


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (box(60.5, 50.25, 4, 4), False),  # within it
        (box(60.5, 66, 30, 14), False),  # over its edge
        (box(60.5, 71, 30, 10), True),  # beside it
    ],
)
def test_objects_under_others_are_not_taken(other: np.ndarray, fits: bool) -> None:
    plain = source(0.0)
    assert (cut_out(plain._replace(corners=np.stack([plain.corners[0], other])), 0) is not None) is fits


@pytest.mark.parametrize(("cx", "fits"), [(20.0, False), (21.9, False), (22.1, True), (97.9, True), (98.1, False)])
def test_objects_at_the_edge_are_not_taken(cx: float, fits: bool) -> None:
    found = cut_out(source()._replace(corners=box(cx, 50, 40, 10)[None], labels=np.array([0])), 0)
    assert (found is not None) is fits
    if found:
        assert isinstance(found, Cutting)
        assert found.margin == 2


def test_rarer_classes_come_more_often() -> None:
    labels = [np.array([0] * 60 + [1]), np.zeros(0, np.int64), np.array([0] * 40 + [2] * 4)]
    stock = stock_of(labels)
    assert len(stock.images) == 105
    rng = np.random.default_rng(0)
    drawn = [stock.draw(rng) for _ in range(13_000)]
    found = np.bincount([labels[image][number] for image, number in drawn])
    np.testing.assert_allclose(found / 1000, [10, 1, 2], rtol=0.1)  # the roots of 100, 1 and 4
    assert {image for image, _ in drawn} == {0, 2}
    assert len(set(drawn)) == 105


def test_a_stock_without_objects() -> None:
    assert len(stock_of([np.zeros(0, np.int64)]).images) == 0
    assert len(stock_of([]).images) == 0


def test_turns() -> None:
    rng = np.random.default_rng(0)
    assert {random_turn(rng, True) for _ in range(50)} == {90.0, 180.0, -90.0, -180.0}
    free = [random_turn(rng, False) for _ in range(50)]
    assert min(free) < -90
    assert max(free) > 90
    assert not any(turn % 90 == 0 for turn in free)
