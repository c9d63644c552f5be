"""Objects of other images, cut out along their rotated boxes, turned and put onto free ground: copy-paste (Ghiasi et al., 2020).

An object brings a margin that fades into its new ground, so that no edge tells it from what was there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rotanext.data.augment import QUARTERS, Example, Motion, Window, moved_pixels, overlap
from rotanext.images.reading import FILL
from rotanext.polygons import apart, boxes_to_corners, corners_to_boxes, rotation

_TRIES = 10  # places for an object
_LEAST_MARGIN, _MARGIN = 2.0, 0.1  # pixels; share of an object's shorter side


class Stock(NamedTuple):
    """The objects of a training: where each is, and the chance to draw one up to it."""

    images: np.ndarray  # [M]
    numbers: np.ndarray  # [M], among the objects of its image
    up_to: np.ndarray  # [M], rising to 1

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """The image and the number of a random object."""
        at = min(int(np.searchsorted(self.up_to, rng.random(), side="right")), len(self.up_to) - 1)
        return int(self.images[at]), int(self.numbers[at])


def stock_of(labels: Sequence[np.ndarray]) -> Stock:
    """The stock from every image's labels: an object of a class that has n is drawn in proportion to 1 / sqrt(n).

    So a class a hundred times as rare as another is drawn a tenth as often, not a hundredth.
    """
    counts = [len(one) for one in labels]
    every = np.concatenate([np.zeros(0, np.int64), *labels])
    rarity = 1 / np.sqrt(np.bincount(every)[every])
    images = np.repeat(np.arange(len(counts)), counts)
    numbers = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
    return Stock(images, numbers, np.cumsum(rarity) / rarity.sum())


class Cutting(NamedTuple):
    """An object to be pasted, with its image."""

    source: Example
    number: int
    box: np.ndarray  # [5], around its corners
    margin: float  # pixels around the box that come along, fading


def cut_out(source: Example, number: int) -> Cutting | None:
    """One of an image's objects; None where it lies at the image's edge, or another object reaches into its box."""
    box = corners_to_boxes(source.corners[number : number + 1])[0]
    margin = max(_LEAST_MARGIN, _MARGIN * float(box[3]))
    outer, (height, width) = _corners(box, margin), source.pixels.shape[:2]
    if outer.min() < 0 or (outer.max(0) > (width, height)).any():
        return None
    others = np.delete(source.corners, number, 0)
    return Cutting(source, number, box, margin) if apart(_corners(box, 0.0), others).all() else None


def free_place(
    cutting: Cutting, size: tuple[int, int], taken: np.ndarray, degrees: float, rng: np.random.Generator
) -> np.ndarray | None:
    """A random centre (x, y) in an image of that width and height for an object turned by `degrees` (clockwise on the screen).

    It and its margin then lie inside and overlap none of the objects `taken [N, 4, 2]`; None where ten tries find no such place.
    """
    around = _corners(np.array([0.0, 0.0, *cutting.box[2:4], cutting.box[4] + math.radians(degrees)]), cutting.margin)
    reach = around.max(0)
    room = np.array(size) - 2 * reach
    if room.min() < 0:
        return None
    for _ in range(_TRIES):
        centre: np.ndarray = reach + rng.uniform(0, 1, 2) * room
        if apart(around + centre, taken).all():
            return centre
    return None


def paste(target: Example, cutting: Cutting, centre: np.ndarray, degrees: float) -> Example:
    """The target (its pixels are copied) with the object turned by `degrees` and its box's centre brought to a point."""
    turn = rotation(math.radians(degrees))
    by = Motion(turn, centre - turn @ cutting.box[:2])
    box = np.array([*centre, *cutting.box[2:4], cutting.box[4] + math.radians(degrees)])
    outer = _corners(box, cutting.margin)
    (left, top), (right, below) = np.floor(outer.min(0)).astype(int), np.ceil(outer.max(0)).astype(int)
    height, width = target.pixels.shape[:2]
    window = overlap(Window(left, top, right - left, below - top), Window(0, 0, width, height))
    pixels = target.pixels.copy()
    ground = pixels[window.y : window.y + window.height, window.x : window.x + window.width]
    cover = _cover(box, cutting.margin, window)[..., None]
    put = moved_pixels(cutting.source.pixels, by, window, FILL)
    ground[:] = np.rint(ground * (1 - cover) + put * cover).astype(np.uint8)
    moved = cutting.source.corners[cutting.number] @ by.turn.T + by.offset
    label = cutting.source.labels[cutting.number]
    return Example(pixels, np.concatenate([target.corners, moved[None]]), np.append(target.labels, label))


def random_turn(rng: np.random.Generator, is_round: bool) -> float:
    """Degrees to turn an object by; a round one, whose box has no angle of its own, by a multiple of 90."""
    return QUARTERS[int(rng.integers(4))] if is_round else float(rng.uniform(-180, 180))


def _corners(box: np.ndarray, margin: float) -> np.ndarray:
    return boxes_to_corners(box + np.array([0, 0, 2 * margin, 2 * margin, 0]))


def _cover(box: np.ndarray, margin: float, window: Window) -> np.ndarray:
    """How much `[H, W]` of each pixel of a window is the object's: 1 in its box, falling to 0 over the margin."""
    x, y = np.arange(window.width) + 0.5 + window.x - box[0], np.arange(window.height) + 0.5 + window.y - box[1]
    cos, sin = math.cos(box[4]), math.sin(box[4])
    u, v = np.abs(cos * x[None] + sin * y[:, None]), np.abs(cos * y[:, None] - sin * x[None])
    beyond = np.maximum(u - box[2] / 2, v - box[3] / 2)
    return np.clip(1 - beyond / margin, 0.0, 1.0)
