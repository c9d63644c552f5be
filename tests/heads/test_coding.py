"""Delta coding: the reference's figures, the round trip, the clamps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import places
from rotanext.boxes import regularize
from rotanext.heads.coding import MAX_LOG_RATIO, at_clamp, decode, encode
from rotanext.ops import rotated_iou_pairs

GOLDEN = places.GOLDEN / "functions.npz"
HALF = math.pi / 2


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in np.load(GOLDEN).items() if name.startswith("coder")}


def test_encode_against_the_reference(golden: dict[str, torch.Tensor]) -> None:
    found = encode(golden["coder_anchors"], golden["coder_gt"])
    torch.testing.assert_close(found, golden["coder_deltas"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("anchors", ["", "0"], ids=["turned-anchors", "upright-anchors"])
def test_decode_against_the_reference(golden: dict[str, torch.Tensor], anchors: str) -> None:
    found = decode(golden[f"coder_anchors{anchors}"], golden["coder_pred_deltas"])
    torch.testing.assert_close(found, golden[f"coder_decoded{anchors}"], rtol=1e-4, atol=1e-6)


# Ratios of edges within the clamp of 62.5.
placed = st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(10, 500), st.floats(10, 500), st.floats(-HALF, HALF))


@given(placed, placed)
def test_round_trip(anchor: tuple[float, ...], box: tuple[float, ...]) -> None:
    anchors = torch.tensor([anchor], dtype=torch.float64)
    boxes = regularize(torch.tensor([box], dtype=torch.float64))
    deltas = encode(anchors, boxes)
    assert deltas[0, 4].abs() <= math.pi / 4 + 1e-9, "the description that turns less"
    found = decode(anchors, deltas)
    torch.testing.assert_close(found[:, :4], boxes[:, :4], atol=1e-8, rtol=1e-9)
    assert rotated_iou_pairs(found, boxes).item() == pytest.approx(1, abs=1e-8)
    assert torch.equal(found, regularize(found))


@pytest.mark.parametrize(
    ("anchor", "deltas", "expected"),
    [
        ([100, 50, 40, 20, 0], [0, 0, 0, 0, 0], [100, 50, 40, 20, 0]),
        ([100, 50, 40, 20, 0], [0.5, 0.5, 0, 0, 0.1], [120, 60, 40, 20, 0.1]),
        ([100, 50, 40, 20, HALF], [0.5, 0, 0, 0, 0], [100, 70, 40, 20, -HALF]),  # along the anchor's axes
        ([100, 50, 40, 20, 0], [0, 0, 0, math.log(4), 0], [100, 50, 80, 40, -HALF]),  # the longer edge becomes w
        ([100, 50, 40, 20, 0], [0, 0, 99, 99, 0], [100, 50, 2500, 1250, 0]),  # at most 62.5 times
        ([100, 50, 40, 20, 0], [0, 0, -99, -99, 0], [100, 50, 0.64, 0.32, 0]),
        ([100, 50, 40, 20, 1.5], [0, 0, 0, 0, 1.5], [100, 50, 40, 20, 3 - math.pi]),
    ],
    ids=["nothing", "shift", "projected-shift", "swap", "largest", "smallest", "wrap"],
)
def test_decode(anchor: list[float], deltas: list[float], expected: list[float]) -> None:
    found = decode(torch.tensor([anchor], dtype=torch.float64), torch.tensor([deltas], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))


def test_the_clamp_has_no_gradient_beyond_it() -> None:
    deltas = torch.tensor([[0, 0, 5.0, -5.0, 0], [0, 0, 4.0, -4.0, 0]], requires_grad=True)
    decode(torch.tensor([[0.0, 0, 10, 10, 0]]), deltas)[:, 2:4].sum().backward()
    assert (deltas.grad[0, 2:4] == 0).all()
    assert (deltas.grad[1, 2:4] > 0).all()
    assert pytest.approx(math.log(62.5)) == MAX_LOG_RATIO


def test_any_leading_shape() -> None:
    anchors, boxes = torch.rand(2, 3, 5) + 1, torch.rand(2, 3, 5) + 1
    assert decode(anchors, encode(anchors, boxes)).shape == (2, 3, 5)
    assert decode(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("angle", [0.0, 1.0, -HALF])
@pytest.mark.parametrize(
    ("dw", "dh", "expected"),
    [
        (0, 0, False),
        (4, -4, False),
        (4.1, 4.1, False),
        (-4.1, -4.1, False),
        (MAX_LOG_RATIO, 0, True),
        (9, 0, True),
        (0, 9, True),
        (-9, 0, True),
        (0, -9, True),
        (9, -9, True),
    ],
)
def test_sides_at_the_clamp(dw: float, dh: float, expected: bool, angle: float) -> None:
    """Whichever edge of the box the clamped one has become."""
    anchors = torch.tensor([[100.0, 50, 40, 20, angle], [100, 50, 20, 40, angle], [100, 50, 30, 30, angle]])
    boxes = decode(anchors, torch.tensor([0.1, 0.2, dw, dh, 0.3]).expand(3, 5))
    assert at_clamp(boxes, anchors[:, 2:4]).tolist() == [expected] * 3
    assert at_clamp(boxes, anchors[:, [3, 2]]).tolist() == [expected] * 3


def test_sides_at_the_clamp_of_files_in_half_precision() -> None:
    """There the limit and the anchors' sizes are rounded, and so is the box."""
    edges = torch.tensor([[90.5097, 45.2548], [16.0, 32.0], [1290.2, 645.1]])
    limit = math.exp(torch.tensor(MAX_LOG_RATIO).half().item())
    boxes = torch.cat([torch.zeros(3, 2), edges.half().float() * limit, torch.zeros(3, 1)], 1)
    assert at_clamp(boxes, edges).all()
    assert at_clamp(torch.zeros(0, 5), torch.zeros(0, 2)).shape == (0,)
