"""Rings of longitude and latitude as RFC 7946 wants them."""

import sys

import numpy as np
import pytest

from rotanext.errors import UserError
from rotanext.geo.rings import close, cut, unroll, wind
from rotanext.polygons import signed_area


def ring(west: float, south: float, east: float, north: float) -> np.ndarray:
    """An open ring [4, 2], counter-clockwise with y up."""
    return np.array([[west, south], [east, south], [east, north], [west, north]], float)


def test_rings_are_closed_and_counter_clockwise() -> None:
    rings = np.stack([ring(0, 0, 2, 1), ring(0, 0, 2, 1)[::-1]])
    closed = close(wind(rings))
    assert closed.shape == (2, 5, 2)
    np.testing.assert_array_equal(closed[:, 0], closed[:, -1])
    assert (signed_area(closed[:, :4]) > 0).all()
    np.testing.assert_array_equal(closed[0, :4], rings[0])  # one that was right is left alone
    assert close(wind(rings[:0])).shape[0] == 0


UNROLLED = (  # longitudes of a ring, those that go on instead, whether it runs round a pole
    ([10, 12, 12, 10], [10, 12, 12, 10], False),
    ([179, -179, -179, 179], [179, 181, 181, 179], False),
    ([-179, 179, 179, -179], [-179, -181, -181, -179], False),
    ([539, 541, 541, 539], [539, 541, 541, 539], False),
    ([0, 90, 180, -90], [0, 90, 180, 270], True),
    ([0, -90, 180, 90], [0, -90, -180, -270], True),
    ([170, -100, -10, 80], [170, 260, 350, 440], True),
)


@pytest.mark.parametrize(("longitudes", "onward", "polar"), UNROLLED)
def test_longitudes_go_on_past_180(longitudes: list, onward: list, polar: bool) -> None:
    rings = np.stack([np.array(longitudes, float), [70.0, 70, 71, 71]], 1)[None]
    found, round_a_pole = unroll(rings)
    np.testing.assert_allclose(found[0, :, 0], onward)
    np.testing.assert_array_equal(found[..., 1], rings[..., 1])
    assert round_a_pole.tolist() == [polar]


CUT = (  # an unrolled ring, and the parts as west, south, east, north
    (ring(10, 0, 12, 1), [(10, 0, 12, 1)]),
    (ring(179, 0, 181, 1), [(179, 0, 180, 1), (-180, 0, -179, 1)]),
    (ring(-181, 0, -179, 1), [(179, 0, 180, 1), (-180, 0, -179, 1)]),
    (ring(539, 0, 541, 1), [(179, 0, 180, 1), (-180, 0, -179, 1)]),
    (ring(178, 0, 180, 1), [(178, 0, 180, 1)]),  # touches
    (ring(-180, 0, -178, 1), [(-180, 0, -178, 1)]),
    (ring(10, 89, 12, 95), [(10, 89, 12, 90)]),
    (ring(10, 0, 10, 1), []),
)


@pytest.mark.parametrize(("outline", "parts"), CUT)
@pytest.mark.parametrize("turned", [False, True])
def test_rings_are_cut_at_the_180th_meridian(outline: np.ndarray, parts: list, turned: bool) -> None:
    found = cut(outline[::-1] if turned else outline)
    assert [(*part.min(0), *part.max(0)) for part in found] == parts
    for part in found:
        np.testing.assert_array_equal(part[0], part[-1])
        assert signed_area(part[:-1]) > 0


@pytest.mark.parametrize("side", [1, -1])
def test_a_ring_round_a_pole_becomes_the_cap(side: int) -> None:
    around = np.stack([np.array([0.0, 90, 180, 270]), np.full(4, 80.0 * side)], 1)
    found = cut(around, polar=True)
    low, high = np.concatenate(found).min(0), np.concatenate(found).max(0)
    assert (low[0], high[0]) == (-180, 180)
    assert sorted((abs(low[1]), abs(high[1]))) == [80, 90]
    assert np.sign(low[1] + high[1]) == side
    assert sum(float(signed_area(part[:-1])) for part in found) == pytest.approx(360 * 10)


def test_a_crossed_ring_is_no_error() -> None:
    found = cut(np.array([[0.0, 0], [2, 2], [2, 0], [0, 2]]))
    assert sum(float(signed_area(part[:-1])) for part in found) == pytest.approx(2)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(UserError, match=r"shapely cannot be imported.*pip install 'rotanext\[geo\]'"):
        cut(ring(179, 0, 181, 1))
