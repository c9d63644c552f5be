"""What stands in a synthetic scene: each thing drawn as it is labelled, where there is room for it."""

from collections.abc import Callable

import numpy as np
import pytest

from rotanext.synthetic.canvas import Canvas, Frame, box
from rotanext.synthetic.objects import (
    add_boat,
    add_building,
    add_car,
    add_court,
    add_pier,
    add_plane,
    add_pool,
    add_ship,
    add_tank,
    add_tree,
    add_truck,
)
from rotanext.synthetic.scenes import CLASS_NAMES

COUNT, SIDE = 24, 512


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.1, -0.9, 2.8])
@pytest.mark.parametrize(
    ("add", "tight"),
    [
        (lambda c, f: add_car(c, f), True),
        (lambda c, f: add_truck(c, f), True),
        (lambda c, f: add_plane(c, f, "airliner", 80.0), True),
        (lambda c, f: add_plane(c, f, "fighter", 50.0), True),
        (lambda c, f: add_ship(c, f, 90.0), True),
        (lambda c, f: add_tank(c, f, 20.3), False),  # upright whatever the frame's angle
        (lambda c, f: add_court(c, f, "tennis-court", 80.0), True),
        (lambda c, f: add_court(c, f, "soccer-ball-field", 120.0), True),
        (lambda c, f: add_pier(c, f.move(-60, 0), 120.0, 22.0), True),
    ],
    ids=["car", "truck", "airliner", "fighter", "ship", "tank", "court", "pitch", "pier"],
)
def test_a_label_is_as_tight_as_the_drawing(add: object, tight: bool, angle: float) -> None:
    f = Frame(100.37, 99.71, angle)
    c = Canvas(np.random.default_rng(5), 200, 200, (0.5, 0.5), 1.0)
    assert add(c, f)  # type: ignore[operator]
    cover = np.maximum(np.maximum(c.low[..., 3], c.high[..., 3]), np.where(c.ground[..., :3].max(-1) > 60, 255, 0))
    ys, xs = np.nonzero(cover > 127)
    centres = (np.stack([xs, ys], 1) + 0.5) / 2
    corners = c.corners[0]
    for start, end in ((0, 1), (0, 3)):
        axis = (corners[end] - corners[start]) / np.linalg.norm(corners[end] - corners[start])
        drawn, label = centres @ axis, corners @ axis
        # Pixel centres of the double-size layer lie up to half of its pixel's diagonal inside the drawn edge.
        assert abs(drawn.min() - label.min()) < 0.6
        assert abs(drawn.max() - label.max()) < 0.6
    assert tight or np.allclose(np.sort(corners[:, 0])[:2], corners[:, 0].min())


def test_a_pool_is_labelled_without_its_terrace() -> None:
    c = Canvas(np.random.default_rng(5), 100, 100, (0.5, 0.5), 1.0)
    assert add_pool(c, Frame(50, 50, 0.3), 40, 20)
    assert np.linalg.norm(c.corners[0][1] - c.corners[0][0]) == pytest.approx(40.6)


def test_no_room_means_nothing_drawn() -> None:
    c = Canvas(np.random.default_rng(0), 80, 80, (0.5, 0.5), 1.0)
    assert c.place("ship", Frame(40, 40, 0.2).at(box(40, 12)))
    assert not add_car(c, Frame(44, 41, 1.0))
    assert not add_car(c, Frame(-20, 41, 1.0))
    assert not add_plane(c, Frame(-20, 60, 0.0), "airliner", 70)  # less than half inside
    assert c.names == ["ship"]
    assert not c.low.any()
    assert not c.high.any()


def canvas(side: int = 200, labels: bool = True, seed: int = 5) -> Canvas:
    return Canvas(np.random.default_rng(seed), side, side, (0.5, 0.5), 1.0, labels=labels)


ADD: dict[str, tuple[str, Callable[[Canvas, Frame], bool]]] = {
    "car": ("small-vehicle", add_car),
    "truck": ("large-vehicle", add_truck),
    "airliner": ("plane", lambda c, f: add_plane(c, f, "airliner", 80.0)),
    "light plane": ("plane", lambda c, f: add_plane(c, f, "light", 45.0)),
    "fighter": ("plane", lambda c, f: add_plane(c, f, "fighter", 50.0)),
    "boat": ("ship", lambda c, f: add_boat(c, f, 40.0)),
    "ship": ("ship", lambda c, f: add_ship(c, f, 90.0)),
    "tank": ("storage-tank", lambda c, f: add_tank(c, f, 20.0)),
    "court": ("tennis-court", lambda c, f: add_court(c, f, "tennis-court", 80.0)),
    "pool": ("swimming-pool", lambda c, f: add_pool(c, f, 60.0, 25.0)),
    "pier": ("harbor", lambda c, f: add_pier(c, f, 60.0, 22.0)),
}


def layers(c: Canvas) -> list[np.ndarray]:
    return [c.ground, c.low, c.high, c.shadow_low, c.shadow_high, c.foam]


@pytest.mark.parametrize(("name", "add"), ADD.values(), ids=ADD)
def test_each_has_its_class_and_one_label(name: str, add: Callable[[Canvas, Frame], bool]) -> None:
    c = canvas()
    assert add(c, Frame(100, 100, 0.4))
    assert (c.names, c.difficult) == ([name], [0])
    assert name in CLASS_NAMES
    assert any(layer.any() for layer in layers(c))


@pytest.mark.parametrize(("name", "add"), ADD.values(), ids=ADD)
@pytest.mark.parametrize("case", ["taken", "outside", "without labels"])
def test_nothing_is_drawn_without_a_label(name: str, add: Callable[[Canvas, Frame], bool], case: str) -> None:
    """What stood there unlabelled would teach a detector that it is background."""
    c = canvas(labels=case != "without labels")
    if case == "taken":
        c.taken[:] = 1
    assert not add(c, Frame(-500.0 if case == "outside" else 100.0, 100, 0.4))
    assert c.names == []
    assert not any(layer.any() for layer in layers(c))


@pytest.mark.parametrize(("flag", "difficult"), [(False, 0), (True, 1)])
def test_covered_cars_and_small_boats_are_difficult(flag: bool, difficult: int) -> None:
    c = canvas()
    assert add_car(c, Frame(60, 60, 0.0), covered=flag)
    assert c.high.any() == flag  # the tree above it
    assert add_boat(c, Frame(140, 140, 0.0), 40.0, small=flag)
    assert c.difficult == [difficult, difficult]


def test_trees_keep_clear_of_what_stands() -> None:
    c = canvas()
    assert add_truck(c, Frame(100, 100, 0.0))
    assert not add_tree(c, 100, 100)
    assert not c.high.any()
    assert add_tree(c, 100, 100, over=True)
    assert add_tree(c, 30, 30)
    assert not add_tree(c, -100, 30)
    assert not add_tree(c, 30, 300, over=True)
    assert c.names == ["large-vehicle"]


@pytest.mark.parametrize(("length", "width"), [(40, 30), (30, 40), (120, 90)], ids=["gabled", "gabled across", "flat"])
def test_buildings_take_room_and_have_no_label(length: float, width: float) -> None:
    c = canvas()
    f = Frame(100, 100, 0.5)
    assert add_building(c, f, length, width, 10)
    assert c.names == []
    assert not add_building(c, f, length, width, 10)
    assert not add_car(c, f)
    ys, xs = np.nonzero(c.high[..., 3] > 127)
    assert len(ys) / 4 == pytest.approx((length + 0.6) * (width + 0.6), rel=0.03)  # with the smooth edge
    assert (xs.mean() / 2, ys.mean() / 2) == (pytest.approx(100, abs=0.6), pytest.approx(100, abs=0.6))


def test_a_tanks_box_is_upright_whatever_its_frame() -> None:
    corners = []
    for angle in (0.0, 0.7, 2.0):
        c = canvas()
        assert add_tank(c, Frame(100, 90, angle), 20.0)
        corners.append(c.corners[0])
    np.testing.assert_array_equal(corners[0], corners[1])
    np.testing.assert_array_equal(corners[0], corners[2])
