"""Four images around a point, as one, with more objects and other neighbours than the data have (Bochkovskiy et al., 2020)."""

from collections.abc import Sequence

import numpy as np

from rotanext.data.augment import GREY, Example, Window, inside, overlap, quarter_turn


def mosaic(parts: Sequence[Example | None], centre: tuple[int, int], size: tuple[int, int]) -> Example:
    """A grey canvas of a width and height with four images, each with a corner at the point `centre` (x, y), in whole pixels.

    They come top left, top right, bottom left, bottom right; None leaves its quarter grey. What reaches beyond the canvas is cut
    off, with the objects whose centre does.
    """
    width, height = size
    canvas = Window(0, 0, width, height)
    pixels = np.full((height, width, 3), GREY[0], np.uint8)  # one number: 12 MB of three take NumPy 13 ms
    corners, labels = [np.zeros((0, 4, 2))], [np.zeros(0, np.int64)]
    for number, part in enumerate(parts):
        if part is None:
            continue
        below, right = divmod(number, 2)
        h, w = part.pixels.shape[:2]
        place = Window(centre[0] - (0 if right else w), centre[1] - (0 if below else h), w, h)
        seen = overlap(place, canvas)
        x, y = seen.x - place.x, seen.y - place.y
        pixels[seen.y : seen.y + seen.height, seen.x : seen.x + seen.width] = part.pixels[y : y + seen.height, x : x + seen.width]
        moved = part.corners + np.array([place.x, place.y])
        remain = inside(moved.mean(1), seen)
        corners.append(moved[remain])
        labels.append(part.labels[remain])
    return Example(pixels, np.concatenate(corners), np.concatenate(labels))


def random_mosaic(parts: Sequence[Example | None], rng: np.random.Generator, turns: bool) -> Example:
    """A mosaic twice as wide and as high as the first image, around a random point of its middle half.

    `turns`: each image is turned by a random multiple of 90 degrees before.
    """
    first = parts[0]
    assert first is not None
    height, width = first.pixels.shape[:2]
    centre = int(rng.uniform(0.5, 1.5) * width), int(rng.uniform(0.5, 1.5) * height)
    if turns:
        numbers = rng.integers(4, size=len(parts)).tolist()
        parts = [part and part.at(*quarter_turn(part.pixels, part.corners, n)) for part, n in zip(parts, numbers, strict=True)]
    return mosaic(parts, centre, (2 * width, 2 * height))
