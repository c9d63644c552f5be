"""Resizing an image to fit a square."""

import numpy as np
import pytest

from rotanext.images.resize import resize_to_fit


@pytest.mark.parametrize(
    ("shape", "size", "expected", "scale"),
    [
        ((100, 200), 0, (100, 200), 1),
        ((100, 200), 200, (100, 200), 1),
        ((200, 100), 50, (50, 25), 0.25),
        ((100, 200), 400, (200, 400), 2),
        ((1, 5000), 1000, (1, 1000), 0.2),  # never less than a pixel
    ],
)
def test_resize_to_fit(shape: tuple[int, int], size: int, expected: tuple[int, int], scale: float) -> None:
    image, found = resize_to_fit(np.zeros((*shape, 3), np.uint8), size)
    assert image.shape[:2] == expected
    assert found == scale


@pytest.mark.parametrize("size", [0, 64])
def test_what_fits_already_is_the_same_image(size: int) -> None:
    image = np.zeros((64, 32, 3), np.uint8)
    found, scale = resize_to_fit(image, size)
    assert found is image
    assert scale == 1


@pytest.mark.parametrize("size", [16, 32, 128, 256])
def test_values_stay_where_they_were(size: int) -> None:
    """A ramp, enlarged or shrunk, is the ramp at the middles of the new pixels: half a pixel either way would show."""
    ramp = np.repeat(np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, 0), 3, 2)
    image, scale = resize_to_fit(ramp, size)
    middles = (np.arange(size) + 0.5) / scale
    inner = (middles > 1) & (middles < 63)
    np.testing.assert_allclose(image[size // 2, inner, 0], 4 * (middles - 0.5)[inner], atol=0.51)
    assert (image == image[:1]).all()


def test_shrinking_averages() -> None:
    """A fine board of black and white becomes grey, not one of its colours."""
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, 2)
    image, _ = resize_to_fit(board, 16)
    assert set(np.unique(image)) <= {127, 128}
