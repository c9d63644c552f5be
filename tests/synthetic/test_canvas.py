"""The canvas of a synthetic scene: frames, layers, room, labels, and the image made of them."""

import math

import numpy as np
import pytest

from rotanext.polygons import signed_area
from rotanext.synthetic.canvas import Canvas, Frame, box, develop, mirror, noise, ring, tone

ANGLES = [0.0, 0.4, math.pi / 2, -2.0, 7.0]


def canvas(height: int = 60, width: int = 80, labels: bool = True) -> Canvas:
    return Canvas(np.random.default_rng(0), height, width, (1.0, 0.5), 1.0, labels=labels)


# Frames and outlines


def test_a_frame_turns_clockwise_on_the_screen() -> None:
    f = Frame(10, 20, math.pi / 2)
    np.testing.assert_allclose(f.at([[1, 0], [0, 1], [0, 0]]), [[10, 21], [9, 20], [10, 20]], atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
def test_moving_a_frame_is_taking_its_point(angle: float) -> None:
    f = Frame(10, 20, angle)
    moved = f.move(3, -4, 0.5)
    np.testing.assert_allclose((moved.x, moved.y), f.at([[3, -4]])[0])
    assert moved.angle == pytest.approx(angle + 0.5)
    np.testing.assert_allclose(f.move(3, 0).at([[2, 1]]), f.at([[5, 1]]))


def test_outlines() -> None:
    np.testing.assert_allclose(box(4, 2, 10, 20), [[8, 19], [12, 19], [12, 21], [8, 21]])
    circle = ring(5, 1, 2, 12)
    np.testing.assert_allclose(np.hypot(*(circle - (1, 2)).T), 5)
    assert circle.shape == (12, 2)
    half = [[5, 0], [2, 3], [-4, 1]]
    np.testing.assert_allclose(mirror(half), [[5, 0], [2, 3], [-4, 1], [-4, -1], [2, -3], [5, 0]])


@pytest.mark.parametrize(
    ("colour", "factor", "expected"),
    [((10, 20, 30), 1, (10, 20, 30, 255)), ((10, 200, 30), 2, (20, 255, 60, 255)), ((10, 20, 30), -1, (0, 0, 0, 255))],
)
def test_tones_stay_colours(colour: tuple[int, int, int], factor: float, expected: tuple[int, ...]) -> None:
    assert tone(colour, factor) == expected
    assert tone(colour, factor, 40)[3] == 40


def test_picked_colours_vary_around_the_choices() -> None:
    c = canvas()
    picked = np.array([c.pick(((100, 120, 140), (0, 255, 3))) for _ in range(300)])
    first = picked[:, 2] > 70
    assert 0 < first.sum() < 300
    assert np.ptp(picked[first] - (100, 120, 140), axis=1).max() == 0  # lighter or darker, never another hue
    assert np.abs(picked[first] - (100, 120, 140)).max() <= 9
    assert picked.min() >= 0
    assert picked.max() <= 255


# Drawing


@pytest.mark.parametrize("angle", ANGLES)
def test_what_is_filled_lies_where_it_should(angle: float) -> None:
    """Layers have twice the resolution, masks have not; both agree on place and area."""
    c, corners = canvas(), Frame(41.3, 30.7, angle).at(box(30, 12))
    c.fill(c.low, corners, (0, 0, 0, 255))
    c.fill(c.foam, corners, 255)
    for cover, scale in ((c.low[..., 3] / 255, 2), (c.foam / 255, 1)):
        ys, xs = np.mgrid[: cover.shape[0], : cover.shape[1]]
        centre = [float(((grid + 0.5) * cover).sum() / cover.sum()) / scale for grid in (xs, ys)]
        np.testing.assert_allclose(centre, [41.3, 30.7], atol=0.35)
        edge = 0.6 / scale  # OpenCV's smooth outlines reach that far beyond
        assert cover.sum() / scale**2 == pytest.approx((30 + 2 * edge) * (12 + 2 * edge), rel=0.04)


def test_a_shadow_reaches_from_its_thing_away_from_the_sun() -> None:
    c, corners = canvas(), box(10, 10, 30, 30)
    c.cast(c.shadow_low, corners, 8)  # 8 to the right, 4 down
    ys, xs = np.nonzero(c.shadow_low > 127)
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == (
        pytest.approx(25, abs=1), pytest.approx(43, abs=1), pytest.approx(25, abs=1), pytest.approx(39, abs=1),
    )  # fmt: skip
    assert c.shadow_low[30, 30] == 255
    c.cast(c.shadow_high, corners, 20, convex=False)  # a thin one leaves no trace on the way
    assert c.shadow_high[30, 30] == 0
    assert c.shadow_high[40, 50] == 255


def test_a_sprite_covers_what_is_below_and_may_be_cut() -> None:
    c = canvas()
    half = np.full((8, 8, 4), 128, np.uint8)
    c.high[:] = 200
    c.stamp(half, 20, 10)
    assert c.high[20, 40].tolist() == [128 + 200 * 127 // 255] * 4
    assert (c.high != 200).any(2).sum() == 64
    before = c.high.copy()
    for x, y in ((-5, 10), (200, 10), (20, -5), (20, 99)):
        c.stamp(half, x, y)
    np.testing.assert_array_equal(c.high, before)
    c.stamp(half, 0, 0)
    assert (c.high[:4, :4] != 200).all()


# Room and labels


@pytest.mark.parametrize(
    ("corners", "share"),
    [
        (box(10, 10, 40, 30), 1.0),
        (box(10, 10, 0, 30), 0.5),
        (box(10, 10, 0, 0), 0.25),
        (box(10, 10, 78, 30), 0.7),
        (box(10, 10, -5, 30), 0.0),
        (box(10, 10, 500, 30), 0.0),
        (box(400, 400, 40, 30), 60 * 80 / 160_000),
        (Frame(0, 30, math.pi / 4).at(box(10, 10)), 0.5),
    ],
    ids=["inside", "half", "corner", "most", "touching", "far", "around", "turned"],
)
def test_the_share_inside_decides_about_the_label(corners: np.ndarray, share: float) -> None:
    c = canvas()
    assert c.inside(corners) == pytest.approx(share)
    assert c.place("thing", corners) == (share >= 0.5)
    assert c.names == ["thing"] * (share >= 0.5)
    assert c.difficult == [int(share < 0.75)] * (share >= 0.5)
    assert bool(c.taken.any()) == (share >= 0.5)


def test_labels_follow_the_smooth_edge_outwards() -> None:
    c, corners = canvas(), Frame(40, 30, 0.3).at(box(20, 10))
    assert c.place("thing", corners, difficult=True)
    (found,) = c.corners
    assert abs(signed_area(found)) == pytest.approx(20.6 * 10.6)
    np.testing.assert_allclose(found.mean(0), [40, 30])
    assert c.difficult == [1]


def test_no_labels_are_placed_on_background() -> None:
    c = canvas(labels=False)
    assert not c.place("thing", box(10, 10, 40, 30))
    assert not c.taken.any()
    assert c.claim(box(10, 10, 40, 30))  # buildings still take their room


def test_room_is_taken_once() -> None:
    c = canvas()
    assert c.claim(box(10, 10, 40, 30))
    assert not c.claim(box(4, 4, 40, 30))
    assert not c.claim(box(10, 10, 47, 30))
    assert c.claim(box(10, 10, 51.5, 30))  # side by side
    assert not c.claim(box(10, 10, -40, 30))
    assert c.free(20, 30, 5)
    assert not c.free(31, 30, 5)
    assert c.free(-100, -100, 5)


@pytest.mark.parametrize(
    ("x", "y", "seen"), [(40, 30, True), (-4, 30, True), (-6, 30, False), (84, 30, True), (86, 30, False), (40, 66, False)]
)
def test_what_the_image_shows(x: float, y: float, seen: bool) -> None:
    c = canvas()
    assert c.shows(Frame(x, y, 0.3), 5) == seen
    assert c.sees(box(10, 10, x, y)) == seen


# The image


def test_noise_is_smooth_and_of_unit_variance() -> None:
    for cells in ((2.2,), (7.0, 2.2), (34.0, 17.0)):
        found = noise(np.random.default_rng(1), (300, 400), cells)
        assert (found.shape, found.dtype) == ((300, 400), np.float32)
        assert 0.5 < found.std() < 1.5
        assert abs(found.mean()) < 0.35
    steps = [np.abs(np.diff(noise(np.random.default_rng(1), (300, 300), (cell,)), axis=1)).mean() for cell in (3.0, 12.0, 48.0)]
    assert steps[0] > 2 * steps[1] > 4 * steps[2]


def test_developing_shows_every_layer() -> None:
    """Each layer changes the image where it was painted, and hardly elsewhere; the same seed gives the same camera."""

    def developed(paint: str) -> np.ndarray:
        c = canvas(96, 96)
        c.ground[:] = (120, 120, 120, 0)
        if paint in ("shadow_low", "shadow_high"):
            getattr(c, paint)[20:60, 20:60] = 255
        elif paint:
            getattr(c, paint)[40:120, 40:120] = (250, 30, 30, 255)
        return develop(c).astype(float)

    plain = developed("")
    np.testing.assert_array_equal(plain, developed(""))
    for paint in ("ground", "low", "high", "shadow_low", "shadow_high"):
        change = developed(paint) - plain
        inner, outer = change[25:55, 25:55].mean((0, 1)), np.abs(change[70:, 70:]).mean()
        assert outer < 1, paint
        if paint.startswith("shadow"):
            assert inner[0] < inner[2] < -30, paint  # blue is darkened least
        else:
            assert inner[0] > 60 > 0 > -40 > inner[1], paint


def test_water_has_waves_and_foam() -> None:
    def developed(foam: int) -> np.ndarray:
        c = canvas(96, 96)
        c.ground[:] = (60, 80, 100, 0)
        c.water[:, :48] = 255
        c.foam[10:30, 10:90] = foam
        return develop(c).astype(float)

    calm, white = developed(0), developed(255)
    difference = white - calm
    assert difference[14:26, 14:40].mean() > 80
    assert np.abs(difference[14:26, 56:86]).max() == 0  # foam lies on water alone
    assert calm[50:, 4:44].std() > 1.1 * calm[50:, 52:92].std()
