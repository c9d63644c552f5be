"""Dynamic assignment by the compiled kernels against the readable rule, on thousands of random scenes of every kind."""

import numpy as np
import pytest
import torch

from process_memory import forget_peak, status
from rotanext.ops import assign_dynamic, cpu, cpu_dynamic, cpu_iou, reference
from scenes import KINDS, Make, Scene, crowded, golden_scene, nothing


def compare(some: Scene, note: str = "") -> int:
    """How many positives; the same by both, to the bit."""
    index, quality = cpu.assign_dynamic(*some)
    expected, iou = reference.assign_dynamic(*some)
    assert torch.equal(index, expected), f"{note}: {(index != expected).nonzero().flatten().tolist()}"
    assert torch.equal(quality, iou), note
    return int((index > 0).sum())


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
