"""Assignment against its definition on the whole matrix of IoUs, on thousands of random layouts."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from rotanext.heads.anchors import STRIDES, AnchorRule
from rotanext.ops import assign_anchors, reference


class Grid(NamedTuple):
    """Anchors, and how they lie."""

    anchors: Tensor
    layout: list[int]


def assign(grid: Grid, boxes: Tensor, *rule: float) -> Tensor:
    """The assignment, which is the same whether it knows how the anchors lie or not."""
    found = assign_anchors(grid.anchors, boxes, *rule, layout=grid.layout)
    assert torch.equal(found, assign_anchors(grid.anchors, boxes, *rule))
    return found


def assign_dense(grid: Grid, boxes: Tensor, positive_iou: float = 0.5, negative_iou: float = 0.4) -> Tensor:
    return reference.assign_anchors(grid.anchors, boxes, positive_iou, negative_iou)


def grid(height: int, width: int, convention: str) -> Grid:
    rule, sizes = AnchorRule(convention), [(-(-height // s), -(-width // s)) for s in STRIDES]
    return Grid(torch.cat(rule.grid(sizes)), rule.layout(sizes))


def layout(rng: np.random.Generator, n: int, low: float, high: float, extent: float) -> Tensor:
    sizes = np.sort(np.exp(rng.uniform(np.log(low), np.log(high), (n, 2))), 1)[:, ::-1]
    centres, angles = rng.uniform(0, extent, (n, 2)), rng.uniform(-np.pi / 2, np.pi / 2, (n, 1))
    return torch.from_numpy(np.concatenate([centres, sizes, angles], 1).astype(np.float32))


def ordinary(rng: np.random.Generator) -> Tensor:
    return layout(rng, int(rng.integers(1, 12)), 8, 90, 96)


def tiny(rng: np.random.Generator) -> Tensor:
    return layout(rng, 6, 1e-3, 3, 96)


def huge(rng: np.random.Generator) -> Tensor:
    return layout(rng, 4, 200, 1e5, 96)


def slender(rng: np.random.Generator) -> Tensor:
    boxes = layout(rng, 6, 40, 120, 96)
    boxes[:, 3] = torch.from_numpy(rng.uniform(0.01, 3, 6))
    return boxes


def duplicate(rng: np.random.Generator) -> Tensor:
    boxes = ordinary(rng)
    return boxes.repeat(3, 1)[torch.from_numpy(rng.permutation(3 * len(boxes)))]


def coincident(rng: np.random.Generator) -> Tensor:
    """Several sizes on one centre, on and off the grid."""
    boxes = layout(rng, 6, 8, 90, 96)
    boxes[:, :2] = torch.from_numpy(rng.integers(0, 24, 2) * 4)
    return boxes


def on_the_grid(rng: np.random.Generator) -> Tensor:
    """Upright squares between grid points: many anchors tie exactly."""
    boxes = torch.zeros(5, 5)
    boxes[:, :2] = torch.from_numpy(rng.integers(0, 24, (5, 2)) * 4.0)
    boxes[:, 2:4] = torch.from_numpy(rng.choice([8.0, 32, 64, 100], (5, 1)))
    return boxes


def outside(rng: np.random.Generator) -> Tensor:
    boxes = layout(rng, 6, 8, 60, 96)
    boxes[:, :2] += torch.from_numpy(rng.choice([-200, -60, 0, 60, 1e6], (6, 2)))
    return boxes


def broken(rng: np.random.Generator) -> Tensor:
    """Objects without area and not finite among good ones."""
    boxes = layout(rng, 8, 8, 60, 96)
    boxes[0, 2:4], boxes[2, 3] = 0, 0
    boxes[4, 0], boxes[6, 2] = float("nan"), float("inf")
    return boxes


SMALL = [(32, 32), (16, 48), (64, 16), (8, 8)]  # pixels
LAYOUTS = [ordinary, tiny, huge, slender, duplicate, coincident, on_the_grid, outside, broken]


@pytest.mark.parametrize("convention", ["v0", "v1"])
@pytest.mark.parametrize("make", LAYOUTS, ids=lambda f: f.__name__)
def test_equals_the_definition(make: Callable[[np.random.Generator], Tensor], convention: str) -> None:
    for seed in range(16):
        height, width = ((96, 96), (64, 128), (128, 32))[seed % 3]
        anchors, boxes = grid(height, width, convention), make(np.random.default_rng(seed))
        found = assign(anchors, boxes)
        assert found.dtype == torch.int64
        torch.testing.assert_close(found, assign_dense(anchors, boxes), msg=lambda m, s=seed: f"seed {s}: {m}")


def test_equals_the_definition_on_thousands_of_small_maps() -> None:
    rules, rng = ((0.5, 0.4), (0.35, 0.25), (0.3, 0.3)), np.random.default_rng(0)
    for number in range(3000):
        make, convention, rule = LAYOUTS[number % len(LAYOUTS)], ("v0", "v1")[number % 2], rules[number % 3]
        anchors, boxes = grid(*SMALL[number % len(SMALL)], convention), make(rng)
        assert torch.equal(assign(anchors, boxes, *rule), assign_dense(anchors, boxes, *rule)), number


def test_equals_the_definition_on_a_large_map() -> None:
    anchors, boxes = grid(512, 384, "v0"), layout(np.random.default_rng(0), 60, 4, 300, 400)
    found = assign(anchors, boxes)
    assert torch.equal(found, assign_dense(anchors, boxes))
    assert set(found.tolist()) >= {-1, 0}


@pytest.mark.parametrize("rule", [(0.35, 0.25), (0.7, 0.1), (0.3, 0.3), (1.0, 1.0), (0.5, 0.05)], ids=str)
def test_equals_the_definition_with_other_thresholds(rule: tuple[float, float]) -> None:
    counts = []
    for seed in range(8):
        anchors, boxes = grid(96, 128, "v0"), LAYOUTS[seed % 4](np.random.default_rng(seed))
        found = assign(anchors, boxes, *rule)
        assert torch.equal(found, assign_dense(anchors, boxes, *rule))
        counts.append((found > 0).sum() - (assign(anchors, boxes) > 0).sum())
    assert sum(counts) > 0 if rule[0] < 0.5 else sum(counts) <= 0


def test_threads_do_not_matter() -> None:
    anchors, boxes = grid(256, 256, "v0"), layout(np.random.default_rng(1), 300, 2, 90, 256)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(assign(anchors, boxes))
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_every_object_with_an_overlap_gets_an_anchor() -> None:
    boxes = layout(np.random.default_rng(2), 8, 1, 20, 90)
    boxes[:, :2] = torch.tensor([[x * 24.0 + 3, y * 48.0 + 5] for x in range(4) for y in range(2)])
    assert set(assign(grid(96, 96, "v0"), boxes).tolist()) >= set(range(1, 9))


ANCHORS = [[0.0, 0, 10, 10, 0], [100.0, 0, 10, 10, 0], [200.0, 0, 10, 10, 0]]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], [0, 0, 0]),
        ([[0, 0, 10, 10, 0]], [1, 0, 0]),
        ([[0, 0, 10, 6, 0], [100, 0, 10, 4.5, 0]], [1, 2, 0]),  # the second only because it is that object's best
        ([[0, 0, 10, 9, 0], [0, 0, 10, 4.5, 0]], [2, 0, 0]),  # both claim one anchor: the later object wins
        ([[0, 0, 10, 4.5, 0], [0, 0, 10, 9, 0]], [2, 0, 0]),
        ([[0, 0, 10, 10, 0], [0, 0, 10, 10, 0]], [2, 0, 0]),  # the same object twice: the later
        ([[50, 0, 92, 1, 0]], [1, 1, 0]),  # two anchors equally good: both
        ([[100, 0, 1, 1, 0]], [0, 1, 0]),  # IoU 0.01, and still the best there is
        ([[50, 50, 10, 10, 0]], [0, 0, 0]),  # overlaps nothing: gets nothing (the reference would give it everything)
        ([[0, 0, 10, 0, 0]], [0, 0, 0]),  # no area
    ],
    ids=["none", "same", "low-quality", "conflict", "conflict-reversed", "twice", "tie", "tiny", "no-overlap", "no-area"],
)
def test_rule(boxes: list[list[float]], expected: list[int]) -> None:
    assert assign_anchors(torch.tensor(ANCHORS), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)).tolist() == expected


def test_ignored_between_the_thresholds() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10, 0], [0, 0, 10, 8, 0], [0, 0, 10, 4.5, 0], [0, 0, 10, 3.9, 0]])
    assert assign_anchors(anchors, torch.tensor([[0.0, 0, 10, 10, 0]])).tolist() == [1, 1, -1, 0]


def test_no_anchors() -> None:
    for layout in ([], [0, 4, 8, 9], [0, 0, 8, 9, 0, 1, 16, 9]):
        assert assign_anchors(torch.zeros(0, 5), torch.ones(2, 5), layout=layout).shape == (0,)


def test_iou_thresholds_must_rise() -> None:
    with pytest.raises(ValueError, match="must rise"):
        assign(grid(96, 96, "v0"), torch.ones(1, 5), 0.4, 0.5)


def test_with_a_layout_objects_look_only_around() -> None:
    """An anchor that does not lie where the layout says is not even looked at."""
    whole, boxes = grid(512, 512, "v0"), torch.tensor([[100.0, 100, 30, 20, 0.3]])
    far = (50 * 64 + 50) * 9
    whole.anchors[far] = boxes[0]
    assert assign_anchors(whole.anchors, boxes)[far] == 1
    assert assign_anchors(whole.anchors, boxes, layout=whole.layout)[far] == 0


@pytest.mark.parametrize(
    "layout", [[4, 4, 8], [4, 4, 8, 9, 2], [4, 4, 8, 10], [4, 4, 8, 9, 1, 1, 16, 1]], ids=["short", "rest", "count", "level"]
)
def test_a_layout_of_other_anchors_is_refused(layout: list[int]) -> None:
    with pytest.raises(ValueError, match="the layout describes"):
        assign_anchors(torch.ones(144, 5), torch.ones(1, 5), layout=layout)


def test_anchors_in_any_order() -> None:
    rng = np.random.default_rng(0)
    whole = grid(96, 128, "v0").anchors
    moved = whole + torch.tensor([100.0, -50, 0, 0, 0])
    shaken = whole.clone()
    shaken[7, 2] *= 5  # one anchor unlike the others
    boxes = layout(rng, 20, 4, 90, 128)
    for anchors in (
        whole[torch.from_numpy(rng.permutation(len(whole)))],
        moved,
        shaken,
        whole[:-3],
        whole[5:],
        whole.flip(0),
        whole.double(),
    ):
        some = boxes.to(anchors.dtype)
        assert torch.equal(assign_anchors(anchors, some), assign_dense(Grid(anchors, []), some))
