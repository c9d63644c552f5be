"""The districts of a synthetic scene: what stands in each, how much of it, and where."""

import math

import numpy as np
import pytest

from rotanext.synthetic import districts
from rotanext.synthetic.canvas import Canvas, Frame

SIDE = 420
# name: classes that may stand there, classes that must in a few seeds
DISTRICTS: dict[str, tuple[set[str], set[str]]] = {
    "car_park": ({"small-vehicle"}, {"small-vehicle"}),
    "depot": ({"large-vehicle", "small-vehicle"}, {"large-vehicle"}),
    "airfield": ({"plane"}, {"plane"}),
    "tank_farm": ({"storage-tank"}, {"storage-tank"}),
    "sports": (
        {"soccer-ball-field", "tennis-court", "basketball-court", "swimming-pool"},
        {"soccer-ball-field", "tennis-court", "basketball-court"},
    ),
    "estate": ({"small-vehicle", "swimming-pool"}, {"small-vehicle", "swimming-pool"}),
    "fields": (set(), set()),
    "sea": ({"ship"}, {"ship"}),
    "harbour": ({"ship", "harbor"}, {"ship", "harbor"}),
}


def filled(name: str, density: float, seed: int = 0, angle: float = 0.0, labels: bool = True, middle: float = SIDE / 2) -> Canvas:
    c = Canvas(np.random.default_rng(seed), SIDE, SIDE, (0.5, 0.5), 1.0, labels=labels)
    getattr(districts, name)(c, Frame(middle, middle, angle), 320.0, 280.0, density)
    return c


@pytest.mark.parametrize("name", DISTRICTS)
def test_what_stands_in_a_district(name: str) -> None:
    allowed, wanted = DISTRICTS[name]
    found = {label for seed in range(6) for label in filled(name, 1.0, seed).names}
    assert wanted <= found <= allowed


@pytest.mark.parametrize("name", ["car_park", "depot", "airfield", "tank_farm", "estate", "sea"])
def test_density_scales_what_is_taken(name: str) -> None:
    counts = [sum(len(filled(name, density, seed).names) for seed in range(6)) for density in (0.0, 0.4, 1.0)]
    assert counts[0] == 0
    assert counts[1] < counts[2]


@pytest.mark.parametrize("name", DISTRICTS)
def test_background_is_drawn_without_labels(name: str) -> None:
    c = filled(name, 1.0, labels=False)
    assert c.names == []
    if name in ("sea", "harbour"):  # ships and piers are all there is
        assert not c.low.any()
        assert not c.foam.any()
    else:
        assert c.ground.any()


@pytest.mark.parametrize("name", sorted(DISTRICTS.keys() - {"sea", "harbour"}))
@pytest.mark.parametrize("angle", [0.0, 0.8])
def test_everything_stands_within_its_block(name: str, angle: float) -> None:
    """Within its length and width along its heading, give or take a street: districts beside each other do not meet."""
    f = Frame(SIDE / 2, SIDE / 2, angle)
    along = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for seed in range(3):
        c = filled(name, 1.0, seed, angle)
        for corners in c.corners:
            local = (corners - (f.x, f.y)) @ along.T
            assert (np.abs(local).max(0) < (320 / 2 + 30, 280 / 2 + 30)).all()


def test_a_district_outside_the_image_leaves_no_labels() -> None:
    for name in DISTRICTS:
        assert filled(name, 1.0, middle=-900.0).names == []


def test_boats_lie_beside_their_piers() -> None:
    c = filled("harbour", 1.0, seed=3)
    piers = [corners for corners, name in zip(c.corners, c.names, strict=True) if name == "harbor"]
    assert piers
    assert all(np.linalg.norm(p[1] - p[0]) > 3 * np.linalg.norm(p[3] - p[0]) for p in piers)
    assert c.foam.any()


def test_flat_ground_has_its_colour_and_texture() -> None:
    c = Canvas(np.random.default_rng(0), 40, 60, (0.5, 0.5), 1.0)
    districts.flat(c, Frame(30, 20, 0.0), 20, 10, (10, 20, 30), gain=77, x=5)
    assert c.ground[40, 70].tolist() == [10, 20, 30, 77]
    assert c.ground[40, 48].tolist() == [0, 0, 0, 0]
    assert int((c.ground[..., 3] == 77).sum()) == pytest.approx(4 * 200, rel=0.1)
