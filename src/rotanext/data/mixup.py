"""Two images in one, each half transparent, with the objects of both (Zhang et al., 2017; for detection Zhang et al., 2019)."""

import cv2
import numpy as np

from rotanext.data.augment import Example, Window, inside, overlap, padded


def mixup(first: Example, second: Example) -> Example:
    """The mean of two images, of the first one's size. The second begins at the same corner; it is cut off or filled with grey.

    Objects of the second whose centre is cut off are left out.
    """
    (height, width), (h, w) = first.pixels.shape[:2], second.pixels.shape[:2]
    window = Window(0, 0, width, height)
    seen = overlap(Window(0, 0, w, h), window)
    pixels = padded(second.pixels[: seen.height, : seen.width], seen, window)
    remain = inside(second.corners.mean(1), window)
    return Example(
        cv2.addWeighted(first.pixels, 0.5, pixels, 0.5, 0.0),
        np.concatenate([first.corners, second.corners[remain]]),
        np.concatenate([first.labels, second.labels[remain]]),
    )
