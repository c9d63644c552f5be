"""Random changes of a training image and its objects, exact on corners.

Coordinates are continuous: an image of width W spans [0, W], pixel i covers [i, i + 1].
"""

import math

import cv2
import numpy as np

from rotanext.config import AugmentConfig
from rotanext.images.reading import FILL
from rotanext.polygons import rotation


def flip(image: np.ndarray, corners: np.ndarray, horizontal: bool, vertical: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mirror an image `[H, W, 3]` and corners `[N, 4, 2]` left-right, top-bottom or both."""
    height, width = image.shape[:2]
    if horizontal:
        image, corners = image[:, ::-1], np.stack([width - corners[..., 0], corners[..., 1]], -1)
    if vertical:
        image, corners = image[::-1], np.stack([corners[..., 0], height - corners[..., 1]], -1)
    return image, corners


def quarter_turn(image: np.ndarray, corners: np.ndarray, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn an image and corners by `turns` times 90 degrees, counter-clockwise on the screen."""
    for _ in range(turns % 4):
        width = image.shape[1]
        image, corners = np.rot90(image), np.stack([corners[..., 1], width - corners[..., 0]], -1)
    return image, corners


def affine(
    image: np.ndarray, corners: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Turn (clockwise on the screen, about the centre), zoom and shift (pixels) an image and its corners; its size stays."""
    height, width = image.shape[:2]
    turn = scale * rotation(math.radians(degrees))
    centre = np.array([width / 2, height / 2])
    offset = centre + np.asarray(shift) - turn @ centre
    # OpenCV counts from the middle of the first pixel, half a pixel from our origin.
    matrix = np.column_stack([turn, offset + turn @ [0.5, 0.5] - 0.5])
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=FILL)
    return image, corners @ turn.T + offset


def colour_jitter(image: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Random brightness, contrast, saturation and hue; each factor drawn from 1 +- its range (hue: turns of the circle)."""
    brightness, contrast, saturation = (
        1 + rng.uniform(-limit, limit) for limit in (config.brightness, config.contrast, config.saturation)
    )
    hue = rng.uniform(-config.hue, config.hue)
    pixels = image.astype(np.float32) * brightness
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean()
    if config.saturation:
        grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
        pixels = grey[..., None] + (pixels - grey[..., None]) * saturation
    image = pixels.clip(0, 255).round().astype(np.uint8)
    if hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int32) + round(hue * 180)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image


def augment(
    image: np.ndarray, corners: np.ndarray, rng: np.random.Generator, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A changed image `[H, W, 3]`, its corners `[N, 4, 2]`, and which of the N objects remain (centre still in the image)."""
    draw = rng.random()
    horizontal, vertical = config.flip_horizontal, config.flip_vertical
    if draw < horizontal:
        image, corners = flip(image, corners, True, False)
    elif draw < horizontal + vertical:
        image, corners = flip(image, corners, False, True)
    elif draw < horizontal + vertical + config.flip_diagonal:
        image, corners = flip(image, corners, True, True)
    if rng.random() < config.quarter_turns:
        image, corners = quarter_turn(image, corners, int(rng.integers(1, 4)))
    degrees = rng.uniform(-180, 180) if rng.random() < config.rotate else 0.0
    scale = float(np.exp(rng.uniform(*np.log(config.scale))))
    height, width = image.shape[:2]
    shift = tuple(rng.uniform(-config.translate, config.translate, 2) * (width, height))
    remain = np.ones(len(corners), bool)
    if degrees or scale != 1 or any(shift):
        image, corners = affine(image, corners, degrees, scale, shift)
        centre = corners.mean(1)
        remain = ((centre >= 0) & (centre < (width, height))).all(1)
    if config.brightness or config.contrast or config.saturation or config.hue:
        image = colour_jitter(image, rng, config)
    return np.ascontiguousarray(image), corners, remain
