"""Labelled objects: what every reader of labels gives."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FARTHEST = 1e6  # pixels either side of 0: a coordinate beyond is no object's
LEAST_AREA = 1e-3  # square pixels: corners around less enclose nothing


@dataclass(frozen=True, eq=False)
class Objects:
    """Labelled objects of one image.

    corners `[N, 4, 2]` float64 (x, y in pixels, in the order of the file), names (classes), difficult `[N]` int64 (0
    no, 1 difficult, 2 cut by a tile's border).
    """

    corners: np.ndarray
    names: list[str]
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: np.ndarray) -> "Objects":
        """The objects at these indices, or where this mask is true."""
        chosen = np.arange(len(self))[index]
        return Objects(self.corners[chosen], [self.names[i] for i in chosen], self.difficult[chosen])


class Fault(NamedTuple):
    """What makes a line or a feature of a label file no object."""

    found: str
    expected: str
    advice: str = "Correct or remove the line."


class Labelled(NamedTuple):
    """One object of a label file: four corners in pixels, class, difficulty."""

    corners: list[tuple[float, float]]
    name: str
    difficult: int
