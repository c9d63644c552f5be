"""Random changes of a training image and its objects, exact on corners.

Coordinates are continuous: an image of width W spans [0, W], pixel i covers [i, i + 1].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from rotanext.config import AugmentConfig
from rotanext.images.reading import FILL
from rotanext.polygons import area_inside, rotation, signed_area

GREY = (114, 114, 114)  # beyond the image in a window or a mosaic: what the field pads with
FILLS: dict[str, tuple[int, int, int]] = {"mean": FILL, "black": (0, 0, 0), "grey": GREY}
QUARTERS = (90.0, 180.0, -90.0, -180.0)  # degrees
_TRIES = 10  # windows


class Example(NamedTuple):
    """A labelled image on its way into a training."""

    pixels: np.ndarray  # [H, W, 3] uint8 RGB
    corners: np.ndarray  # [N, 4, 2]
    labels: np.ndarray  # [N]

    def at(self, pixels: np.ndarray, corners: np.ndarray) -> "Example":
        """The same objects, moved with their image."""
        return Example(pixels, corners, self.labels)


class Window(NamedTuple):
    """A part of an image's plane, in whole pixels; it may reach beyond the image."""

    x: int
    y: int
    width: int
    height: int


def overlap(a: Window, b: Window) -> Window:
    """What two windows that overlap have in common."""
    x, y = max(a.x, b.x), max(a.y, b.y)
    return Window(x, y, min(a.x + a.width, b.x + b.width) - x, min(a.y + a.height, b.y + b.height) - y)


def padded(image: np.ndarray, shown: Window, window: Window) -> np.ndarray:
    """The image of a window, from the part of it that is shown by `image`; the rest is grey."""
    left, top = shown.x - window.x, shown.y - window.y
    right, below = window.width - shown.width - left, window.height - shown.height - top
    return cv2.copyMakeBorder(image, top, below, left, right, cv2.BORDER_CONSTANT, value=GREY)


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


def resize(image: np.ndarray, corners: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Make an image and its corners `factor` times as large, rounded to whole pixels, by each side's own factor then."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return image, corners * (size[0] / width, size[1] / height)


class Motion(NamedTuple):
    """What becomes of points `[..., 2]`: `points @ turn.T + offset`."""

    turn: np.ndarray  # [2, 2], with the zoom
    offset: np.ndarray  # [2]


def motion(size: tuple[int, int], degrees: float, scale: float, shift: tuple[float, float]) -> Motion:
    """Turn (clockwise on the screen) and zoom about the centre of an image of that width and height, then shift (pixels).

    The centre is (W / 2, H / 2), for pixels and corners alike: in this frame both stay together exactly. OpenCV, which counts
    from the middle of the first pixel, calls the same point ((W - 1) / 2, (H - 1) / 2). The reference toolbox turns pixels about
    the latter and boxes about the former: one point in this frame, half a pixel apart where boxes are read as pixel indices.
    """
    turn = scale * rotation(math.radians(degrees))
    centre = np.array([size[0] / 2, size[1] / 2])
    return Motion(turn, centre + np.asarray(shift) - turn @ centre)


def moved_pixels(image: np.ndarray, by: Motion, window: Window, fill: Sequence[int]) -> np.ndarray:
    """The pixels within a window of the moved image; `fill` (RGB) is what lies beyond the image."""
    offset = by.offset - (window.x, window.y)
    # OpenCV counts from the middle of the first pixel, half a pixel from our origin.
    matrix = np.column_stack([by.turn, offset + by.turn @ [0.5, 0.5] - 0.5])
    return cv2.warpAffine(image, matrix, (window.width, window.height), flags=cv2.INTER_LINEAR, borderValue=fill)


def affine(
    image: np.ndarray,
    corners: np.ndarray,
    degrees: float,
    scale: float,
    shift: tuple[float, float],
    fill: Sequence[int] = FILL,
) -> tuple[np.ndarray, np.ndarray]:
    """Turn, zoom and shift an image and its corners, as `motion` says; its size stays."""
    height, width = image.shape[:2]
    by = motion((width, height), degrees, scale, shift)
    return moved_pixels(image, by, Window(0, 0, width, height), fill), corners @ by.turn.T + by.offset


def random_window(size: tuple[int, int], crop: int, centres: np.ndarray, rng: np.random.Generator) -> Window:
    """A square window on an image of that width and height, anywhere in it; an image that is smaller lies anywhere in the window.

    Of ten the first that holds one of the objects' centres `[N, 2]` is taken, since little is learnt from empty ground.
    """
    slack = np.array(size) - crop
    for _ in range(_TRIES):
        x, y = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1).tolist()
        window = Window(x, y, crop, crop)
        if not len(centres) or inside(centres, window).any():
            break
    return window


def inside(points: np.ndarray, window: Window) -> np.ndarray:
    """Which `[N]` of the points `[N, 2]` lie in the window."""
    local = points - (window.x, window.y)
    return np.asarray(((local >= 0) & (local < (window.width, window.height))).all(1))


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
    image: np.ndarray, corners: np.ndarray, rng: np.random.Generator, config: AugmentConfig, holds_round: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A changed image `[H, W, 3]`, its corners `[N, 4, 2]`, and which of the N objects remain.

    An image that holds a round object is turned by 90, 180 or 270 degrees instead of any angle. Objects remain while their centre
    is in the image, and `visible` of their area.
    """
    if config.resize != (1.0, 1.0):
        image, corners = resize(image, corners, float(rng.uniform(*config.resize)))
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
    degrees = 0.0
    if rng.random() < config.rotate:
        degrees = QUARTERS[int(rng.integers(4))] if holds_round else rng.uniform(-180, 180)
    scale = float(np.exp(rng.uniform(*np.log(config.scale))))
    height, width = image.shape[:2]
    shift = tuple(rng.uniform(-config.translate, config.translate, 2) * (width, height))
    by = motion((width, height), degrees, scale, shift) if degrees or scale != 1 or any(shift) else None
    image, corners, remain = _moved_and_cut(image, corners, by, rng, config)
    if config.brightness or config.contrast or config.saturation or config.hue:
        image = colour_jitter(image, rng, config)
    return np.ascontiguousarray(image), corners, remain


def _moved_and_cut(
    image: np.ndarray, corners: np.ndarray, by: Motion | None, rng: np.random.Generator, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of `augment` after which objects may be missing: it makes no pixels that the window does not show."""
    height, width = image.shape[:2]
    whole = seen = window = Window(0, 0, width, height)
    if by is not None:
        corners = corners @ by.turn.T + by.offset
    remain = inside(corners.mean(1), whole) if by is not None or config.crop else np.ones(len(corners), bool)
    if config.crop:
        window = random_window((width, height), config.crop, corners[remain].mean(1), rng)
        seen = overlap(window, whole)
        remain &= inside(corners.mean(1), seen)
    if by is not None:
        image = moved_pixels(image, by, seen, FILLS[config.fill])
    else:
        image = image[seen.y : seen.y + seen.height, seen.x : seen.x + seen.width]
    if seen != window:
        image = padded(image, seen, window)
    if config.visible:
        area = area_inside(corners - (seen.x, seen.y), seen.width, seen.height)
        remain &= area >= config.visible * np.abs(signed_area(corners)) * (1 - 1e-9)
    return image, corners - (window.x, window.y), remain
