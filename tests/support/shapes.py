"""Boxes and quadrilaterals for the tests of the operators, and what shapely says of them."""

import math

import numpy as np
import torch
from shapely.geometry import Polygon
from torch import Tensor

INF, NAN = math.inf, math.nan
Row = list[float]

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
DART = [[0, 0], [10, 5], [0, 10], [4, 5]]  # concave

# name: two quadrilaterals, and their IoU
QUADRILATERALS: dict[str, tuple[list[Row], list[Row], float]] = {
    "same": (SQUARE, SQUARE, 1.0),
    "reversed": (SQUARE, SQUARE[::-1], 1.0),
    "dart": (DART, DART, 1.0),
    "dart-reversed": (DART, DART[::-1], 1.0),
    "dart-in-square": (SQUARE, DART, 0.3),
    "third": (SQUARE, [[x + 5, y] for x, y in SQUARE], 1 / 3),
    "touching": (SQUARE, [[x + 10, y] for x, y in SQUARE], 0.0),
    "notch": (DART, [[0, 4], [3, 4], [3, 6], [0, 6]], 0.0),  # in the dart's notch
    "point": (SQUARE, [[3, 3]] * 4, 0.0),
    "line": (SQUARE, [[0, 0], [10, 10], [10, 10], [0, 0]], 0.0),
    "nan": (SQUARE, [[NAN, 0], [1, 0], [1, 1], [0, 1]], 0.0),
    "inf": (SQUARE, [[0, 0], [INF, 0], [INF, 10], [0, 10]], 0.0),
}


def random_boxes(n: int, rng: np.random.Generator, extent: float = 100, least: float = 0.5, most: float = 80) -> Tensor:
    sizes = np.exp(rng.uniform(math.log(least), math.log(most), (n, 2)))
    centres, angles = rng.uniform(0, extent, (n, 2)), rng.uniform(-4, 4, (n, 1))
    return torch.from_numpy(np.concatenate([centres, sizes, angles], 1))


def shapely_iou(a: Tensor, b: Tensor, mode: str = "iou") -> np.ndarray:
    """Matrix of IoUs of `[N, 4, 2]` corners by shapely."""
    p, q = ([Polygon(c) for c in corners.numpy()] for corners in (a, b))
    shared = np.array([[x.intersection(y).area for y in q] for x in p])
    area_a, area_b = np.array([[x.area] for x in p]), np.array([[y.area for y in q]])
    return shared / (area_a if mode == "iof" else area_a + area_b - shared)


def simple_quads(n: int, seed: int) -> Tensor:
    """Random simple quadrilaterals, convex and concave, of both orientations."""
    rng, quads = np.random.default_rng(seed), []
    while len(quads) < n:
        quad = rng.uniform(0, 60, (4, 2)) + rng.uniform(0, 60, 2)
        if Polygon(quad).is_valid:
            quads.append(quad)
    return torch.from_numpy(np.array(quads))
