"""Points and boxes by distances: the reference's figures, the round trip, and where a point lies."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from places import GOLDEN
from rotanext.boxes import boxes_to_corners
from rotanext.heads.points import decode, encode, grid
from rotanext.ops import rotated_iou_pairs

CPU = torch.device("cpu")
HALF = math.pi / 2


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    wanted = ("coder", "priors")
    return {name: torch.from_numpy(v) for name, v in np.load(GOLDEN / "rtmdet-functions.npz").items() if name.startswith(wanted)}


def test_points_of_the_reference(golden: dict[str, torch.Tensor]) -> None:
    sizes = [tuple(size) for size in golden["priors_feature_sizes"].tolist()]
    points, strides = grid(sizes, (8, 16, 32), 0.0, CPU)
    torch.testing.assert_close(torch.cat([points, strides[:, None], strides[:, None]], 1), golden["priors"], rtol=0, atol=0)


def test_encode_against_the_reference(golden: dict[str, torch.Tensor]) -> None:
    found = encode(golden["coder_points"], golden["coder_gt"])
    torch.testing.assert_close(found, golden["coder_distances"], rtol=1e-4, atol=1e-4)


def test_decode_against_the_reference(golden: dict[str, torch.Tensor]) -> None:
    """Angles beyond a quarter turn and points outside among them."""
    assert (golden["coder_pred"][:, :4] < 0).any()
    found = decode(golden["coder_points"], golden["coder_pred"])
    torch.testing.assert_close(found, golden["coder_decoded"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_points_lie_row_by_row(offset: float) -> None:
    points, strides = grid([(3, 4), (2, 2)], (8, 16), offset, CPU)
    assert strides.tolist() == [8.0] * 12 + [16.0] * 4
    x, y = torch.arange(4), torch.arange(3)
    expected = torch.stack([(x + offset).repeat(3) * 8, (y + offset).repeat_interleave(4) * 8], 1)
    torch.testing.assert_close(points[:12], expected.float())
    torch.testing.assert_close(points[12:], torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]) * 16 + offset * 16)


def test_wrong_number_of_levels() -> None:
    with pytest.raises(ValueError):
        grid([(4, 4)], (8, 16), 0.0, CPU)


coordinate = st.floats(-1e3, 1e3)
placed = st.tuples(coordinate, coordinate, st.floats(0.5, 500), st.floats(0.5, 500), st.floats(-HALF, HALF, exclude_max=True))


@given(st.tuples(coordinate, coordinate), placed)
def test_round_trip(point: tuple[float, float], box: tuple[float, ...]) -> None:
    points, boxes = torch.tensor([point], dtype=torch.float64), torch.tensor([box], dtype=torch.float64)
    found = decode(points, encode(points, boxes))
    torch.testing.assert_close(found[:, :4], boxes[:, :4], atol=1e-8, rtol=1e-9)
    assert rotated_iou_pairs(found, boxes).item() == pytest.approx(1, abs=1e-6)


def test_distances_are_those_to_the_four_sides() -> None:
    """Of a turned box: the corner order of boxes.py starts at left and top in the box's own frame."""
    box, point = torch.tensor([[50.0, 40, 30, 10, 0.7]]), torch.tensor([[47.0, 42.0]])
    left, top, right, bottom, angle = encode(point, box)[0].tolist()
    a, b, c, d = boxes_to_corners(box)[0]
    for distance, (start, end) in ((left, (d, a)), (top, (a, b)), (right, (b, c)), (bottom, (c, d))):
        along = (end - start) / (end - start).norm()
        offset = point[0] - start
        assert distance == pytest.approx((along[0] * offset[1] - along[1] * offset[0]).item(), abs=1e-4)
    assert angle == pytest.approx(0.7)


def test_sums_below_zero_are_sides_below_zero() -> None:
    found = decode(torch.zeros(1, 2), torch.tensor([[-4.0, 3, 1, 2, 2.0]]))
    torch.testing.assert_close(found[0, 2:], torch.tensor([-3.0, 5.0, 2.0 - math.pi]))


def test_any_leading_shape() -> None:
    points, boxes = torch.rand(3, 2), torch.rand(2, 3, 5) + 1
    assert decode(points, encode(points, boxes)).shape == (2, 3, 5)
    assert decode(torch.zeros(0, 2), torch.zeros(0, 5)).shape == (0, 5)
