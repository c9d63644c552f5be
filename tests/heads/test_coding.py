"""Delta coding: the reference's figures, the round trip, the clamps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import places
from rotanext.boxes import regularize
from rotanext.heads.coding import MAX_LOG_RATIO, decode, encode
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
