"""Dynamic assignment by the compiled kernels against the readable rule, on thousands of random scenes of every kind."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from process_memory import forget_peak, status
from rotanext.ops import assign_dynamic, cpu, cpu_dynamic, cpu_iou, reference
from scenes import Scene, golden_scene, scene

Make = Callable[[np.random.Generator], Scene]


def compare(some: Scene, note: str = "") -> int:
    """How many positives; the same by both, to the bit."""
    index, quality = cpu.assign_dynamic(*some)
    expected, iou = reference.assign_dynamic(*some)
    assert torch.equal(index, expected), f"{note}: {(index != expected).nonzero().flatten().tolist()}"
    assert torch.equal(quality, iou), note
    return int((index > 0).sum())


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


@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
def test_equals_the_definition(make: Make) -> None:
    positives = [compare(make(np.random.default_rng(seed)), f"seed {seed}") for seed in range(25)]
    assert (max(positives) > 0) == (make is not nothing)


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
def test_equals_the_definition_on_thousands_of_scenes(make: Make) -> None:
    rng = np.random.default_rng(1)
    for number in range(600):
        compare(make(rng), f"number {number}")


@pytest.mark.usefixtures("three_threads")
def test_threads_change_nothing(pools: list[int]) -> None:
    for seed in range(4):
        compare(crowded(np.random.default_rng(seed)))
    assert set(pools) == {3}


def test_equals_the_definition_on_a_large_image() -> None:
    assert compare(golden_scene(1, 150, 640, 8, 120)) > 300


def test_memory_does_not_grow_with_points_times_objects() -> None:
    """A matrix of them, at four bytes a pair, would be 172 MB."""
    some = golden_scene(1, 2000, 1024, 8, 60)
    assign_dynamic(*golden_scene(1, 50, 256, 8, 60))
    forget_peak()
    before = status("VmHWM")
    assert (assign_dynamic(*some)[0] > 0).sum() > 10_000
    assert status("VmHWM") - before < 60 << 20


def test_highest_ious_are_never_too_low_and_mostly_near() -> None:
    some = crowded(np.random.default_rng(3))
    boxes, objects = some.boxes.double(), some.objects.double()
    exact = reference.rotated_iou(boxes, objects).numpy()
    first, second = cpu_iou.prepare(boxes.numpy()), cpu_iou.prepare(objects.numpy())
    bounds = np.array([[cpu_dynamic._highest_iou(a, b) for b in second] for a in first])
    assert (bounds >= exact * (1 - 1e-9))[exact > 0].all()
    assert (bounds < 0).sum() > 0.9 * (exact == 0).sum()
    assert np.median((exact / bounds)[exact > 0]) > 0.5


def test_bounds_fall_in_steps() -> None:
    bounds = np.random.default_rng(0).random(1000)
    bounds[:3] = 0, 1, 1 / 64
    order = np.empty(1000, np.int64)
    cpu_dynamic._falling(bounds, order)
    assert sorted(order) == list(range(1000))
    assert (np.diff(bounds[order]) < 1 / 63).all()
    assert bounds[order[0]] > 0.98
