"""Assignment problems of RTMDet: those of the golden files, and random ones of every kind."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STRIDES = (8, 16, 32)


class Scene(NamedTuple):
    """The arguments of `ops.assign_dynamic`."""

    points: Tensor
    strides: Tensor
    boxes: Tensor
    logits: Tensor
    objects: Tensor
    labels: Tensor


def grid(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> tuple[np.ndarray, np.ndarray]:
    """Points `[P, 2]` and strides `[P]` of an image, level by level, row by row."""
    points, levels = [], []
    for stride in strides:
        x, y = np.meshgrid(np.arange(-(-width // stride)), np.arange(-(-height // stride)))
        points.append(np.stack([x.ravel(), y.ravel()], 1) * float(stride))
        levels.append(np.full(x.size, float(stride)))
    return np.concatenate(points), np.concatenate(levels)


def golden_scene(seed: int, n: int, size: int, shortest: float, longest: float, classes: int = 15) -> Scene:
    """The scene of the golden files with these arguments: predictions lean towards the object whose centre is nearest."""
    rng = np.random.RandomState(seed)
    points, strides = grid(size, size)
    objects = np.stack(
        [
            rng.uniform(0, size, n),
            rng.uniform(0, size, n),
            rng.uniform(shortest, longest, n),
            rng.uniform(shortest, longest, n),
            rng.uniform(-1.5, 1.5, n),
        ],
        1,
    )
    objects[:, 2:4] = np.sort(objects[:, 2:4], 1)[:, ::-1]
    labels = rng.randint(0, classes, n)
    logits, noise = rng.standard_normal((len(points), classes)) - 2.0, rng.standard_normal((len(points), 5))
    if n:
        nearest = ((points[:, None] - objects[None, :, :2]) ** 2).sum(-1).argmin(1)
        near = objects[nearest]
        boxes = near + noise * [0.1, 0.1, 0.15, 0.15, 0.0] * np.maximum(near[:, 2:3], 8.0) + noise * [0, 0, 0, 0, 0.2]
        logits[np.arange(len(points)), labels[nearest]] += 2.0 * rng.standard_normal(len(points)) + 1.0
    else:
        boxes = np.concatenate([points, 16.0 + noise[:, 2:4], noise[:, 4:]], 1)
    boxes[:, 2:4] = np.maximum(boxes[:, 2:4], 2.0)
    numbers = [torch.from_numpy(values.astype(np.float32)) for values in (points, strides, boxes, logits, objects)]
    return Scene(*numbers, torch.from_numpy(labels.astype(np.int64)))


def scene(rng: np.random.Generator, n: int, low: float, high: float, height: int = 64, width: int = 96, classes: int = 3) -> Scene:
    """Objects with sides from low to high; a point's box is near one of the objects around it, or near the point."""
    points, strides = grid(height, width)
    sizes = np.sort(np.exp(rng.uniform(np.log(low), np.log(high), (n, 2))), 1)[:, ::-1]
    objects = np.concatenate([rng.uniform(0, (width, height), (n, 2)), sizes, rng.uniform(-np.pi / 2, np.pi / 2, (n, 1))], 1)
    spread = strides[:, None] * np.exp(rng.normal(0.5, 0.5, (len(points), 2)))
    boxes = np.concatenate([points + rng.normal(0, 3, points.shape), spread, rng.uniform(-2, 2, (len(points), 1))], 1)
    if n:
        nearest = np.square(points[:, None] - objects[None, :, :2]).sum(-1).argsort(1)[:, : rng.integers(1, 4)]
        chosen = nearest[np.arange(len(points)), rng.integers(0, nearest.shape[1], len(points))]
        shaken = objects[chosen] * rng.normal(1, 0.1, (len(points), 5)) + rng.normal(0, 1, (len(points), 5)) * [1, 1, 1, 1, 0.05]
        follows = rng.random(len(points)) < rng.choice([0.0, 0.5, 1.0])
        boxes[follows] = shaken[follows]
    logits = rng.normal(-2, 2, (len(points), classes))
    numbers = [torch.from_numpy(values.astype(np.float32)) for values in (points, strides, boxes, logits, objects)]
    return Scene(*numbers, torch.from_numpy(rng.integers(0, classes, n)))
