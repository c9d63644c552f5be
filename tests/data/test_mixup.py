"""Two images in one: pixels are the mean, objects those of both."""

import numpy as np

from rotanext.data.augment import GREY, Example
from rotanext.data.mixup import mixup


def example(value: int, height: int, width: int, *centres: tuple[float, float]) -> Example:
    square = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    corners = np.array([square + centre for centre in centres]).reshape(-1, 4, 2)
    return Example(np.full((height, width, 3), value, np.uint8), corners, np.arange(len(centres)) + value)


def test_the_mean_with_the_objects_of_both() -> None:
    one, two = example(10, 8, 12, (3, 4)), example(31, 8, 12, (5, 6), (11, 7))
    found = mixup(one, two)
    assert (found.pixels == 20).all()  # of 20.5, to the even
    np.testing.assert_array_equal(found.corners, np.concatenate([one.corners, two.corners]))
    assert found.labels.tolist() == [10, 31, 32]
    assert (one.pixels == 10).all(), "the source is not written to"


def test_a_larger_second_is_cut_off() -> None:
    found = mixup(example(10, 8, 12), example(30, 20, 30, (5, 6), (12.5, 6), (5, 8), (11.9, 7.9)))
    assert found.pixels.shape == (8, 12, 3)
    assert (found.pixels == 20).all()
    assert found.labels.tolist() == [30, 33]


def test_a_smaller_second_is_filled_with_grey() -> None:
    found = mixup(example(10, 8, 12, (11, 7)), example(30, 5, 20, (3, 3)))
    assert (found.pixels[:5] == 20).all()
    assert (found.pixels[5:] == (10 + GREY[0]) // 2).all()
    assert found.labels.tolist() == [10, 30]


def test_background() -> None:
    found = mixup(example(10, 4, 4), example(20, 4, 4))
    assert (found.corners.shape, found.labels.shape) == ((0, 4, 2), (0,))
