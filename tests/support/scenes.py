"""Assignment problems of RTMDet: those of the golden files, and random ones of every kind."""

from collections.abc import Callable
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


Make = Callable[[np.random.Generator], Scene]


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


def ordinary(rng: np.random.Generator) -> Scene:
    return scene(rng, int(rng.integers(1, 8)), 10, 60)


def crowded(rng: np.random.Generator) -> Scene:
    return scene(rng, int(rng.integers(20, 60)), 5, 40)


def tiny(rng: np.random.Generator) -> Scene:
    """Most objects without any point, and few predictions that overlap them."""
    return scene(rng, 15, 0.1, 9)


def huge(rng: np.random.Generator) -> Scene:
    return scene(rng, 4, 50, 3000)


def slender(rng: np.random.Generator) -> Scene:
    some = scene(rng, 8, 20, 100)
    some.objects[:, 3] = torch.from_numpy(rng.uniform(0.01, 4, 8))
    return some


def nothing(rng: np.random.Generator) -> Scene:
    """No objects, or all of them outside."""
    some = scene(rng, int(rng.integers(0, 3)), 5, 20)
    some.objects[:, 0] += 500
    return some


def outside(rng: np.random.Generator) -> Scene:
    some = scene(rng, 8, 8, 60)
    some.objects[:, :2] += torch.from_numpy(rng.choice([-200, -30, 0, 0, 30, 1e6], (8, 2))).float()
    return some


def twins(rng: np.random.Generator) -> Scene:
    """Every object several times, under the same and under another label."""
    some = scene(rng, 4, 10, 50)
    order = torch.from_numpy(rng.permutation(12))
    return some._replace(objects=some.objects.repeat(3, 1)[order], labels=some.labels.repeat(3)[order].clamp(max=1))


def ties(rng: np.random.Generator) -> Scene:
    """Constant logits, upright objects on the grid, predictions that are the object, a square around the point or far away."""
    some = scene(rng, 6, 10, 50)
    some.objects[:, :2] = torch.from_numpy(rng.integers(0, 8, (6, 2)) * 8.0 + rng.choice([0, 4])).float()
    some.objects[:, 2:4] = torch.from_numpy(rng.choice([8.0, 16, 32, 40], (6, 2))).float()
    some.objects[:, 4] = 0
    boxes = torch.cat([some.points, some.strides[:, None].expand(-1, 2) * 2, torch.zeros(len(some.points), 1)], 1)
    kind = int(rng.integers(0, 3))
    if kind == 1:
        boxes = some.objects[torch.from_numpy(rng.integers(0, 6, len(boxes)))]
    elif kind == 2:
        boxes[:, 0] += 1000
    return some._replace(boxes=boxes, logits=torch.full_like(some.logits, float(rng.choice([-4.6, 0, 2]))), labels=some.labels * 0)


def apart(rng: np.random.Generator) -> Scene:
    """Hardly a prediction overlaps an object."""
    some = crowded(rng)
    some.boxes[:, 0] += torch.from_numpy(rng.choice([0, 300, 300, 1e5, -1e9], len(some.boxes))).float()
    return some


def broken(rng: np.random.Generator) -> Scene:
    """Predictions, logits and objects that are negative, empty, endless or no numbers."""
    some = crowded(rng)
    for values, share in ((some.boxes, 0.2), (some.objects, 0.03), (some.logits, 0.01)):
        odd = torch.from_numpy(rng.choice([np.nan, np.inf, -np.inf, 0, -5, 1e-30, 1e30], values.shape)).float()
        where = torch.from_numpy(rng.random(values.shape) < share)
        values[where] = odd[where]
    for boxes in (some.boxes, some.objects):
        boxes[:, 4].masked_fill_(boxes[:, 4] == 1e30, 1e3)  # float32 has no fractions there: any angle is as good
    return some


def sure(rng: np.random.Generator) -> Scene:
    """Logits far from 0."""
    some = crowded(rng)
    return some._replace(logits=some.logits * float(rng.choice([10, 100, 1e4])))


def shuffled(rng: np.random.Generator) -> Scene:
    """Points in any order, off the grid, with strides of their own."""
    some = crowded(rng)
    order = torch.from_numpy(rng.permutation(len(some.points)))
    some = Scene(*(values[order] for values in some[:4]), *some[4:])
    some.points.add_(torch.from_numpy(rng.normal(0, 5, some.points.shape)).float())
    return some._replace(strides=torch.from_numpy(rng.choice([1, 2.5, 8, 64], len(order))).float())


KINDS: list[Make] = [ordinary, crowded, tiny, huge, slender, nothing, outside, twins, ties, apart, broken, sure, shuffled]
