"""What the tests of exported detectors share."""

import cv2
import numpy as np

CLASSES = ("plane", "ship")


def image(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 255, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
