"""Dynamic assignment in parts against the readable rule: on a GPU where there is one, else its torch on the CPU."""

import numpy as np
import pytest
import torch

from rotanext.ops import cuda_dynamic, reference
from scenes import KINDS, Make, Scene, crowded, golden_scene

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compare(some: Scene, note: str = "") -> int:
    """How many positives; the same by both, to the bit."""
    there = Scene(*(values.to(DEVICE) for values in some))
    index, quality = cuda_dynamic.assign_dynamic(reference.rotated_iou, reference.rotated_iou_pairs, *there)
    expected, iou = reference.assign_dynamic(*some)
    assert torch.equal(index.cpu(), expected), f"{note}: {(index.cpu() != expected).nonzero().flatten().tolist()}"
    assert torch.equal(quality.cpu(), iou), note
    return int((index > 0).sum())


@pytest.mark.parametrize("pairs", [1, 1000, 1 << 21])
@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
def test_equals_the_definition(make: Make, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_dynamic, "_PAIRS_AT_ONCE", pairs)
    for seed in range(10):
        compare(make(np.random.default_rng(seed)), f"seed {seed}")


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
def test_equals_the_definition_on_thousands_of_scenes(make: Make) -> None:
    rng = np.random.default_rng(2)
    for number in range(300):
        compare(make(rng), f"number {number}")


def test_a_large_image() -> None:
    assert compare(golden_scene(1, 150, 640, 8, 120)) > 300


def test_with_tritons_kernels() -> None:
    """The door of CUDA tensors, in Triton's interpreter where there is no GPU."""
    cuda = pytest.importorskip("rotanext.ops.cuda", reason="Triton exists for Linux only")
    for seed in range(2):
        some = Scene(*(values.to(DEVICE) for values in crowded(np.random.default_rng(seed))))
        index, quality = cuda.assign_dynamic(*some)
        expected, iou = reference.assign_dynamic(*some)
        assert torch.equal(index, expected)
        torch.testing.assert_close(quality, iou, rtol=0, atol=1e-7)
        assert (index > 0).sum() > 20


def test_ranks_are_ordered_as_costs_and_then_as_indices() -> None:
    cost = torch.tensor([1.0, 1.0, -1.0, 0.0, -0.0, 1e-40, -1e-40, 3e38, torch.inf, -2.5])
    ranks = cuda_dynamic._ranks(cost, torch.arange(10))
    assert ranks.argsort().tolist() == [9, 2, 6, 3, 4, 5, 0, 1, 7, 8]
    assert (ranks < cuda_dynamic._INFINITE).tolist() == [True] * 8 + [False, True]
    assert (ranks % cuda_dynamic._INDICES).tolist() == list(range(10))
