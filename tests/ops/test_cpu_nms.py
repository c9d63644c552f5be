"""NMS against its definition in pure Python, the reference, and cases by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import places
from rotanext.ops import cpu_nms, reference, rotated_iou, rotated_nms

GOLDEN = places.GOLDEN / "functions.npz"
Row = list[float]
pytestmark = pytest.mark.usefixtures("implementation")


def random_boxes(n: int, rng: np.random.Generator) -> Tensor:
    sizes = np.exp(rng.uniform(math.log(5), math.log(60), (n, 2)))
    return torch.from_numpy(np.concatenate([rng.uniform(0, 100, (n, 2)), sizes, rng.uniform(-4, 4, (n, 1))], 1))


def plain_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float) -> list[int]:
    """The definition, one box at a time."""
    matrix = rotated_iou(boxes, boxes)
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: (-scores[k].item(), k)):
        rivals = [k for k in kept if labels is None or labels[k] == labels[i]]
        if all(matrix[k, i] <= threshold for k in rivals):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("with_labels", [False, True], ids=["all", "per-class"])
def test_nms_equals_the_definition(threshold: float, with_labels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(60, rng).float()
        boxes[50:] = boxes[:10]  # duplicates
        scores = torch.from_numpy(rng.integers(0, 12, 60) / 12)  # many ties
        labels = torch.from_numpy(rng.integers(0, 3, 60)) if with_labels else None
        expected = plain_nms(boxes, scores, labels, threshold)
        kept = rotated_nms(boxes, scores, labels, threshold)
        assert kept.dtype == torch.int64
        assert kept.tolist() == expected
        with monkeypatch.context() as patch:
            patch.setattr(reference, "_PAIRS_AT_ONCE", 16)
            assert rotated_nms(boxes, scores, labels, threshold).tolist() == expected


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_nms_against_the_reference(threshold: float) -> None:
    """The golden indices come from a call without classes: labels None gives them exactly, the labels beside them do not."""
    golden = {name: torch.from_numpy(values) for name, values in np.load(GOLDEN).items()}
    kept = rotated_nms(golden["nms_boxes"], golden["nms_scores"], None, threshold)
    assert torch.equal(kept, golden[f"nms_keep_{threshold}"])
    per_class = rotated_nms(golden["nms_boxes"], golden["nms_scores"], golden["nms_labels"], threshold)
    assert len(per_class) > len(kept)


TWINS = [[10.0, 10, 20, 8, 0.2]] * 3


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "expected"),
    [
        (TWINS, [0.5, 0.9, 0.7], None, [1]),
        (TWINS, [0.5, 0.5, 0.5], None, [0]),  # ties: the lower index
        (TWINS, [0.5, 0.9, 0.7], [0, 1, 0], [1, 2]),
        (TWINS, [0.5, 0.5, 0.5], [2, 1, 2], [0, 1]),
        ([[0.0, 0, 10, 10, 0], [6, 0, 10, 10, 0], [12, 0, 10, 10, 0]], [0.9, 0.8, 0.7], None, [0, 2]),  # the dropped do not drop
        ([[0.0, 0, 10, 10, 0], [20, 0, 10, 10, 0]], [0.1, 0.2], None, [1, 0]),
        ([[5.0, 5, 0, 0, 0], [5, 5, 0, 0, 0]], [0.1, 0.2], None, [1, 0]),  # boxes without area overlap nothing
        ([[5.0, 5, 3, 2, 0]], [0.0], None, [0]),
        ([], [], None, []),
        ([], [], [], []),
    ],
    ids=["best", "tie", "labels", "labels-tie", "chain", "apart", "points", "one", "none", "none-labels"],
)
def test_nms_small(boxes: list[Row], scores: Row, labels: list[int] | None, expected: list[int]) -> None:
    chosen = None if labels is None else torch.tensor(labels, dtype=torch.int64)
    kept = rotated_nms(torch.tensor(boxes).reshape(-1, 5), torch.tensor(scores), chosen, 0.1)
    assert kept.tolist() == expected
    assert kept.dtype == torch.int64


def test_nms_drops_only_above_the_threshold() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 10, 10, 0], [5, 0, 10, 10, 0]]), torch.tensor([0.9, 0.8])
    exact = rotated_iou(boxes, boxes)[0, 1].item()
    assert rotated_nms(boxes, scores, None, exact).tolist() == [0, 1]
    assert rotated_nms(boxes, scores, None, exact - 1e-6).tolist() == [0]


def spread(n: int, seed: int, side: float, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes with sides from `low` to `high` in a square, scores with some ties, labels."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(math.log(low), math.log(high), (n, 2)))
    boxes = np.concatenate([rng.uniform(-side / 2, side / 2, (n, 2)), sizes, rng.uniform(-4, 4, (n, 1))], 1)
    return torch.from_numpy(boxes).float(), torch.from_numpy(rng.integers(0, n, n) / n), torch.from_numpy(rng.integers(0, 4, n))


@pytest.mark.parametrize(
    ("side", "low", "high", "offset"),
    [(300, 8, 60, 0), (300, 0.01, 300, 0), (1e6, 1, 1e6, 0), (0.1, 1e-3, 1e-2, 0), (300, 8, 60, -1e6)],
    ids=["ordinary", "all-sizes", "huge", "tiny", "far"],
)
def test_the_grid_finds_what_the_reference_finds(side: float, low: float, high: float, offset: float) -> None:
    dropped = 0
    for seed in range(6):
        boxes, scores, labels = spread(400, seed, side, low, high)
        boxes[:, :2] += offset
        boxes[::97, 2:4] = torch.tensor([[0.0, 5], [float("inf"), 1], [1e30, 1e-30], [1e-30, 1e-30], [1, 1]])
        boxes[5, 0], boxes[6, 4], boxes[7, 1] = float("nan"), float("nan"), 1e30
        for chosen in (None, labels):
            expected = reference.rotated_nms(boxes, scores, chosen, 0.1)
            assert torch.equal(rotated_nms(boxes, scores, chosen, 0.1), expected)
            dropped += 400 - len(expected)
    assert dropped > 50


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("labelled", [False, True])
def test_blocks_and_threads_change_nothing(labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_nms, "_WORTH_THREADS", 50)
    monkeypatch.setattr(cpu_nms, "_FIRST_BLOCK", 16)
    for seed in range(4):
        boxes, scores, labels = spread(600, seed, 300, 4, 60)
        boxes[::97, 2:4] = torch.tensor([[0.0, 5], [float("inf"), 1], [1e30, 1e-30], [1e-30, 1e-30], [1, 1], [5, 5], [7, 7]])
        labels[:20] = 9  # a small class beside large ones
        chosen = labels if labelled else None
        found = rotated_nms(boxes, scores, chosen, 0.1)
        assert torch.equal(found, reference.rotated_nms(boxes, scores, chosen, 0.1))
        assert len(found) < 550


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_threshold_is_compared_in_double_precision(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10, 0], [7.5, 0, 10, 10, 0]], dtype=dtype)  # IoU 1 / 7
    for step, kept in ((1e-12, 2), (-1e-12, 1)):
        assert len(rotated_nms(boxes, torch.tensor([0.9, 0.8]), None, 1 / 7 + step)) == kept
