"""Four images in one: every object is found where its pixels are, and the grey is where nothing is."""

import numpy as np
import pytest

from rotanext.data.augment import GREY, Example
from rotanext.data.mosaic import mosaic, random_mosaic


def example(number: int, height: int, width: int, *places: tuple[int, int]) -> Example:
    """An image of one colour, 10 * number, with marks of 3 x 3 pixels of colour 10 * number + k + 1, each an object."""
    pixels = np.full((height, width, 3), 10 * number, np.uint8)
    corners = []
    for k, (x, y) in enumerate(places):
        pixels[y : y + 3, x : x + 3] = 10 * number + k + 1
        corners.append([[x, y], [x + 3, y], [x + 3, y + 3], [x, y + 3]])
    return Example(pixels, np.array(corners, float).reshape(-1, 4, 2), np.array([10 * number + k + 1 for k in range(len(places))]))


PARTS = [
    example(1, 40, 60, (5, 5), (50, 30), (30, 20)),
    example(2, 40, 60, (2, 30), (40, 8)),
    example(3, 25, 70, (60, 15), (10, 2)),
    example(4, 90, 90, (1, 1), (80, 80)),
]


def check(found: Example) -> None:
    """Each object that is whole has the mark that its label names, and each mark that is there has its object."""
    height, width = found.pixels.shape[:2]
    for corners, label in zip(found.corners, found.labels, strict=True):
        (x0, y0), (x1, y1) = corners.min(0).clip(0).astype(int), corners.max(0).astype(int)
        assert (found.pixels[y0:y1, x0:x1] == label).all()
        centre = corners.mean(0)
        assert ((centre >= 0) & (centre < (width, height))).all()
    marks = {int(value) for value in np.unique(found.pixels) if value % 10 and value != GREY[0]}
    whole = {value for value in marks if (found.pixels[..., 0] == value).sum() == 9}
    assert whole <= set(found.labels.tolist()) <= marks


@pytest.mark.parametrize("centre", [(60, 40), (30, 20), (89, 59), (31, 58)])
def test_objects_stay_with_their_pixels(centre: tuple[int, int]) -> None:
    found = mosaic(PARTS, centre, (120, 80))
    assert found.pixels.shape == (80, 120, 3)
    check(found)
    x, y = centre
    assert [int(found.pixels[v, u, 0]) // 10 for v in (y - 1, y) for u in (x - 1, x)] == [1, 2, 3, 4]


def test_where_there_is_no_image_it_is_grey() -> None:
    found = mosaic(PARTS, (60, 40), (120, 80))
    assert (found.pixels[65:, :60] == GREY).all()  # below the third, which is 25 high
    assert (found.pixels[40:65, :60] != GREY).any()
    missing = mosaic([PARTS[0], None, None, PARTS[3]], (60, 40), (120, 80))
    assert (missing.pixels[:40, 60:] == GREY).all()
    assert (missing.pixels[40:, :60] == GREY).all()
    assert set(missing.labels.tolist()) == {11, 12, 13, 41}
    check(missing)


def test_objects_whose_centre_is_cut_off_are_left_out() -> None:
    left = mosaic(PARTS, (30, 20), (120, 80))  # of the first image the right lower part is left
    assert 11 not in left.labels
    assert {12, 13} <= set(left.labels.tolist())
    none = mosaic([example(1, 40, 60), None, None, None], (60, 40), (120, 80))
    assert (none.corners.shape, none.labels.shape) == ((0, 4, 2), (0,))


@pytest.mark.parametrize("turns", [False, True])
def test_random_mosaics(turns: bool) -> None:
    seen = set()
    for seed in range(30):
        found = random_mosaic(PARTS, np.random.default_rng(seed), turns)
        assert found.pixels.shape == (80, 120, 3)
        check(found)
        again = random_mosaic(PARTS, np.random.default_rng(seed), turns)
        assert all(map(np.array_equal, found, again))
        seen |= set(found.labels.tolist())
    assert seen == {11, 12, 13, 21, 22, 31, 32, 41} | ({42} if turns else set())


def test_turned_parts_keep_their_corner_at_the_centre() -> None:
    flat = [example(n, 40, 60) for n in (1, 2, 3, 4)]
    upright = 0
    for seed in range(20):
        pixels = random_mosaic(flat, np.random.default_rng(seed), True).pixels[..., 0]
        (below, right) = np.argwhere(pixels == 40).min(0)
        assert (pixels[below - 1, right - 1], pixels[below - 1, right], pixels[below, right - 1]) == (10, 20, 30)
        assert 20 <= below < 60
        assert 30 <= right < 90
        upright += (pixels[:below, right] == 20).all() and below > 40
    assert upright > 0
