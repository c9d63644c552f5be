"""From pixels to ground coordinates and back, and the choice of a mapping for GCPs."""

from collections.abc import Callable

import numpy as np
import pytest

from gcps import CORNERS, GRID, SIZE, curved, oblique, plane
from rotanext.geo import mapping
from rotanext.geo.mapping import Affine, Projective, Spline, fit_gcps, round_trip


def test_a_gcp_on_the_wrong_side_leaves_the_plane() -> None:
    ground = plane(GRID)
    ground[[0, 35]] = ground[[35, 0]]  # a spline through these folds
    fitted = fit_gcps(GRID, ground, SIZE)
    assert fitted is not None
    assert isinstance(fitted[0], Affine)
    assert fitted[1] > 100


def test_a_spline_that_folds_between_its_gcps_leaves_the_plane() -> None:
    ground = plane(GRID)
    ground[7] += (0, 50)  # a typing error of about half the grid's spacing
    spline = Spline.fit(GRID, ground)
    assert np.abs(spline.backward(ground) - GRID).max() < 1e-6
    assert round_trip(spline, SIZE) > 0.01
    fitted = fit_gcps(GRID, ground, SIZE)
    assert fitted is not None
    assert isinstance(fitted[0], Affine)


def test_the_derivatives_of_a_spline() -> None:
    spline, points, step = Spline.fit(GRID, curved(GRID)), np.random.default_rng(0).uniform(-1, 1, (50, 2)), 1e-6
    slopes = spline._bend(points)[1]
    for axis, shift in enumerate(np.eye(2) * step):
        by_hand = (spline._bend(points + shift)[0] - spline._bend(points - shift)[0]) / (2 * step)
        np.testing.assert_allclose(slopes[:, :, axis], by_hand, rtol=0, atol=1e-7)


def test_no_mapping_beyond_the_horizon() -> None:
    fitted = fit_gcps(CORNERS, oblique(CORNERS), SIZE)
    assert fitted is not None
    assert np.isnan(fitted[0].forward(np.array([[100.0, 1001]]))).all()
    assert np.isfinite(fitted[0].forward(np.array([[100.0, 990]]))).all()


INVERTIBLE = (  # matrix, offset, whether a pixel has an area
    ([[0.5, 0.2], [0.2, -0.5]], [5e5, 5e6], True),
    ([[1e-9, 0], [0, -1e-9]], [0, 0], True),
    ([[0, 2], [3, 0]], [0, 0], True),
    ([[0, 0], [0, 0]], [0, 0], False),
    ([[1, 2], [2, 4]], [0, 0], False),
    ([[1, 0], [0, 0]], [0, 0], False),
    ([[1, np.nan], [0, 1]], [0, 0], False),
    ([[1, 0], [0, 1]], [np.inf, 0], False),
)


@pytest.mark.parametrize(("matrix", "offset", "wanted"), INVERTIBLE)
def test_affine_mappings_that_have_a_way_back(matrix: list, offset: list, wanted: bool) -> None:
    found = Affine(np.array(matrix, float), np.array(offset, float))
    assert found.invertible is wanted
    if wanted:
        np.testing.assert_allclose(found.backward(found.forward(GRID.astype(float))), GRID, atol=1e-6)


FITTED = (  # the mapping, the truth that it can follow exactly
    (Affine, plane),
    (Projective, plane),
    (Projective, oblique),
    (Spline, plane),
)


@pytest.mark.parametrize(("kind", "truth"), FITTED)
def test_each_mapping_follows_its_truth_between_its_gcps(kind: type[mapping.Mapping], truth: Callable) -> None:
    found = kind.fit(GRID, truth(GRID))
    inside = np.random.default_rng(0).uniform(0, SIZE, (500, 2))
    np.testing.assert_allclose(found.forward(inside), truth(inside), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.backward(truth(inside)), inside, rtol=0, atol=1e-4)
    assert round_trip(found, SIZE) < 1e-5


def test_a_spline_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    spline = Spline.fit(GRID, curved(GRID))
    points = np.random.default_rng(0).uniform(0, SIZE, (200, 2))
    whole = spline.forward(points)
    monkeypatch.setattr(mapping, "_CHUNK", 7 * len(GRID))
    assert len(spline._parts(points)) > 20
    np.testing.assert_allclose(spline.forward(points), whole, rtol=0, atol=1e-8)
    np.testing.assert_allclose(spline.backward(whole), points, rtol=0, atol=1e-6)


LOST = {  # pixels of GCPs that fix no mapping
    "none": GRID[:0],
    "two": GRID[:2],
    "three at two places": GRID[[0, 1, 1]],
    "on a line": np.stack([np.arange(9.0), 2 * np.arange(9.0)], 1),
    "at no place": np.full((9, 2), np.nan),
}


@pytest.mark.parametrize("name", LOST)
def test_gcps_that_fix_nothing(name: str) -> None:
    pixels = LOST[name].astype(float)
    assert fit_gcps(pixels, plane(pixels), SIZE) is None


def test_gcps_on_one_place_of_the_ground_fix_nothing() -> None:
    assert fit_gcps(GRID.astype(float), np.zeros_like(GRID, float), SIZE) is None


def test_gcps_of_no_place_are_left_out_and_those_at_one_pixel_are_averaged() -> None:
    pixels = np.concatenate([GRID, GRID[:1], [[np.nan, 1.0]]]).astype(float)
    ground = plane(pixels)
    ground[0] += (0.01, 0)
    ground[len(GRID)] -= (0.01, 0)
    found = fit_gcps(pixels, ground, SIZE)
    assert found is not None
    np.testing.assert_allclose(found[0].forward(GRID), plane(GRID), rtol=0, atol=1e-6)
    assert found[1] < 1e-6


@pytest.mark.parametrize(("shift", "kind"), [(0.1, Affine), (1.0, Spline)])
def test_the_simplest_mapping_that_misses_no_gcp_by_more_than_half_a_pixel(shift: float, kind: type) -> None:
    ground = plane(GRID) + shift * np.sin(GRID / 200)
    found = fit_gcps(GRID, ground, SIZE)
    assert found is not None
    assert isinstance(found[0], kind)
    assert found[1] <= mapping.GOOD_FIT


def test_what_does_not_come_back_is_infinitely_far() -> None:
    flat = Projective(Affine(np.eye(2), np.zeros(2)), Affine(np.eye(2), np.zeros(2)), np.diag([1.0, 1, -1]), np.eye(3))
    assert np.isnan(flat.forward(np.zeros((1, 2)))).all()
    assert round_trip(flat, SIZE) == np.inf
