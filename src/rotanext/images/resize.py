"""Resizing an image to fit a square; training and prediction use this one function, so they cannot differ."""

import cv2
import numpy as np


def resize_to_fit(image: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """Image `[H, W, 3]` with its longer side brought to `size` pixels, ratio kept, and the scale applied.

    Coordinates of the result are those of the source times the scale. size 0, or an image that fits already, changes nothing.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width) if size else 1.0
    if scale == 1.0:
        return image, 1.0
    target = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), scale
