"""Augmentation, exact on corners: a disc drawn at a corner is found where that corner ends up."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from rotanext.config import AugmentConfig, load_config
from rotanext.data.augment import (
    FILL,
    GREY,
    Window,
    affine,
    augment,
    colour_jitter,
    flip,
    overlap,
    padded,
    quarter_turn,
    random_window,
    resize,
)
from rotanext.images.resize import resize_to_fit

HEIGHT, WIDTH = 90, 140
# Distinct colours, so that corners that change places are told apart.
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
CORNERS = np.array([[[48.5, 36.0], [88.0, 33.5], [92.0, 57.0], [51.0, 60.5]]])
Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def config(**changes: float | str | tuple[float, float]) -> AugmentConfig:
    """No changes but those named."""
    published = load_config("rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota").augment
    flips = {"flip_horizontal": 0.0, "flip_vertical": 0.0, "flip_diagonal": 0.0}
    return published.model_copy(update=flips | changes)


def image_with_discs(corners: np.ndarray = CORNERS, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Discs of 2.5 pixels around an object's four corners, on black, with soft edges (8 x 8 samples a pixel)."""
    x, y = (np.arange(8 * n) / 8 + 1 / 16 for n in (width, height))
    image = np.zeros((height, width, 3), np.uint8)
    for colour, (cx, cy) in zip(COLOURS, corners[0], strict=True):
        inside = (x[None] - cx) ** 2 + (y[:, None] - cy) ** 2 < 2.5**2
        share = inside.reshape(height, 8, width, 8).mean((1, 3))
        image = np.maximum(image, (share[..., None] * colour).astype(np.uint8))
    return image


def find_discs(image: np.ndarray) -> np.ndarray:
    """Centroids `[1, 4, 2]` of the four colours, in continuous coordinates."""
    r, g, b = image.astype(float).transpose(2, 0, 1)
    fill = (np.abs(image.astype(int)[..., None] - np.array([FILL, GREY]).T).max(2) <= 1).any(-1)
    masks = np.stack([r - g, g - r, b - g, np.minimum(r, g) - b]).clip(0)
    masks[0] -= b * (r > g)
    masks[:, fill] = 0
    masks = np.where(masks > 40, masks, 0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    total = masks.sum((1, 2))
    return np.stack([(masks * x).sum((1, 2)) / total, (masks * y).sum((1, 2)) / total], -1)[None]


def distance(image: np.ndarray, corners: np.ndarray) -> float:
    return np.linalg.norm(find_discs(image) - corners, axis=-1).max()


def test_the_discs_are_found_where_they_were_drawn() -> None:
    assert distance(image_with_discs(), CORNERS) < 0.05


CHANGES: dict[str, Change] = {
    "flip-horizontal": lambda i, c: flip(i, c, True, False),
    "flip-vertical": lambda i, c: flip(i, c, False, True),
    "flip-diagonal": lambda i, c: flip(i, c, True, True),
    **{f"quarter-turn-{n}": lambda i, c, n=n: quarter_turn(i, c, n) for n in (1, 2, 3)},
    **{f"turn-{d}": lambda i, c, d=d: affine(i, c, d, 1.0, (0, 0)) for d in (5, 30, 90, 135, 180, -60)},
    **{f"resize-{f}": lambda i, c, f=f: resize(i, c, f) for f in (0.6, 0.83, 1.7)},
    **{f"zoom-{s}": lambda i, c, s=s: affine(i, c, 0, s, (0, 0)) for s in (0.5, 0.8, 1.5)},
    "shift": lambda i, c: affine(i, c, 0, 1.0, (7.25, -11.5)),
    "all-three": lambda i, c: affine(i, c, 40, 1.2, (5.5, 3.25)),
    "after-a-flip": lambda i, c: affine(*flip(i, c, True, True), 15, 1.1, (2, 1)),  # negative strides
    "after-a-turn": lambda i, c: affine(*quarter_turn(i, c, 1), 15, 0.9, (2, 1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_pixels_and_corners_go_together(change: Change) -> None:
    image, corners = change(image_with_discs(), CORNERS)
    assert distance(image, corners) < 0.15
    assert np.abs(corners - CORNERS).max() > 0.5, "something did change"


@pytest.mark.parametrize("size", [70, 97, 210])
def test_pixels_and_corners_go_together_when_resized(size: int) -> None:
    image, scale = resize_to_fit(image_with_discs(), size)
    assert max(image.shape) == size
    assert distance(image, CORNERS * scale) < 0.4  # the shorter side is rounded to whole pixels


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, 7])
def test_quarter_turns_are_exact(turns: int) -> None:
    image, corners = quarter_turn(image_with_discs(), CORNERS, turns)
    np.testing.assert_array_equal(image, np.rot90(image_with_discs(), turns))
    back, again = quarter_turn(image, corners, 4 - turns % 4)
    np.testing.assert_array_equal(back, image_with_discs())
    np.testing.assert_allclose(again, CORNERS)


def test_flipping_twice_is_nothing() -> None:
    for way in ((True, False), (False, True), (True, True)):
        image, corners = flip(*flip(image_with_discs(), CORNERS, *way), *way)
        np.testing.assert_array_equal(image, image_with_discs())
        np.testing.assert_allclose(corners, CORNERS)


def test_affine_fills_with_the_mean_colour_and_keeps_the_size() -> None:
    image, _ = affine(np.zeros((20, 30, 3), np.uint8), np.zeros((0, 4, 2)), 0, 1, (10, 0))
    assert image.shape == (20, 30, 3)
    assert (image[:, :9] == FILL).all()
    assert (image[:, 11:] == 0).all()


def draw(seed: int, changes: AugmentConfig, corners: np.ndarray = CORNERS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return augment(image_with_discs(), corners, np.random.default_rng(seed), changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"flip_horizontal": 0.3, "flip_vertical": 0.3, "flip_diagonal": 0.3},
        {"quarter_turns": 0.7},
        {"rotate": 0.8},
        {"scale": (0.7, 1.3)},
        {"translate": 0.15},
        {"flip_horizontal": 0.5, "quarter_turns": 0.5, "rotate": 0.5, "scale": (0.7, 1.2), "translate": 0.1},
        {"resize": (0.8, 2.0)},
        {"crop": 120},  # larger than the image in one direction
        {"flip_vertical": 0.5, "quarter_turns": 0.5, "rotate": 0.5, "resize": (0.8, 2.0), "crop": 130},
    ],
    ids=["flips", "quarters", "rotate", "scale", "translate", "all", "resize", "crop", "all-cropped"],
)
def test_augmented_pixels_and_corners_go_together(changes: dict) -> None:
    checked = 0
    for seed in range(25):
        image, corners, remain = draw(seed, config(**changes))
        assert image.flags.c_contiguous
        assert image.dtype == np.uint8
        inside = ((corners > 4) & (corners < np.array(image.shape[1::-1]) - 4)).all()
        if inside:
            assert remain.all()
            assert distance(image, corners) < 0.2
            checked += 1
    assert checked > 10


def test_round_objects_are_turned_by_quarters() -> None:
    """All of them come up, exact to the pixel on a square image."""
    square, found = image_with_discs(height=140), set()
    for seed in range(40):
        image, corners, remain = augment(square, CORNERS, np.random.default_rng(seed), config(rotate=1.0), holds_round=True)
        for n in range(1, 4):
            if np.array_equal(image, np.rot90(square, n)):
                np.testing.assert_allclose(corners, quarter_turn(square, CORNERS, n)[1], atol=1e-9)
                found.add(n)
                break
        else:
            pytest.fail("an angle that is no quarter turn")
        assert remain.all()
    assert found == {1, 2, 3}
    others = [augment(square, CORNERS, np.random.default_rng(seed), config(rotate=1.0))[0] for seed in range(4)]
    assert not any(np.array_equal(other, np.rot90(square, n)) for n in range(4) for other in others)


@pytest.mark.parametrize(("fill", "colour"), [("mean", FILL), ("black", (0, 0, 0)), ("grey", (114, 114, 114))])
def test_what_a_rotation_leaves_empty(fill: str, colour: tuple[int, int, int]) -> None:
    white = np.full((60, 60, 3), 255, np.uint8)
    corners = np.array([[0, 0], [0, 59], [59, 0], [59, 59]])
    empty = 0
    for seed in range(10):
        image, _, _ = augment(white, CORNERS, np.random.default_rng(seed), config(rotate=1.0, fill=fill))
        empty += all((image[y, x] == colour).all() for y, x in corners)
    assert empty >= 8  # not where it is turned by little


def test_windows() -> None:
    a, b = Window(-3, 5, 10, 10), Window(0, 0, 20, 12)
    assert overlap(a, b) == overlap(b, a) == Window(0, 5, 7, 7)
    image = padded(np.full((7, 7, 3), 9, np.uint8), overlap(a, b), a)
    assert image.shape == (10, 10, 3)
    assert (image[:7, 3:] == 9).all()
    assert (image[7:] == GREY).all()
    assert (image[:, :3] == GREY).all()


def test_a_random_window_lies_anywhere_but_prefers_objects() -> None:
    rng, none, far = np.random.default_rng(0), np.zeros((0, 2)), np.array([[3.0, 60.0]])
    places = {random_window((40, 12), 20, none, rng)[:2] for _ in range(2000)}
    assert places == {(x, y) for x in range(21) for y in range(-8, 1)}
    hits = [random_window((200, 100), 50, far, rng) for _ in range(500)]
    held = np.mean([w.x <= 3 < w.x + 50 and w.y <= 60 < w.y + 50 for w in hits])
    share = 4 / 151 * 50 / 51  # of all windows; one with an object is the first hit of ten
    assert held == pytest.approx(1 - (1 - share) ** 10, abs=0.08)


def test_a_crop_has_its_size_and_shows_the_image() -> None:
    source = image_with_discs()
    for seed in range(20):
        image, corners, remain = draw(seed, config(crop=100))
        assert image.shape == (100, 100, 3)
        x, y = np.rint((corners - CORNERS)[0, 0]).astype(int)
        np.testing.assert_allclose(corners, CORNERS + np.array([x, y]), atol=1e-9)
        assert 0 <= y <= 10
        assert (image[:y] == GREY).all()
        np.testing.assert_array_equal(image[y : y + HEIGHT], source[:, -x : 100 - x])
        assert remain.all() == (0 <= CORNERS.mean(1)[0, 0] + x < 100)


@pytest.mark.parametrize("changes", [{}, {"rotate": 1.0}, {"resize": (0.5, 1.5)}], ids=str)
def test_objects_leave_a_crop_with_their_centre(changes: dict) -> None:
    corners = CORNERS + np.array([[-40.0, 0], [0, 0], [40, 0], [0, 70]])[:, None]  # the last below the image
    lost = 0
    for seed in range(30):
        image, moved, remain = draw(seed, config(crop=60, **changes), corners)
        assert image.shape == (60, 60, 3)
        expected = ((moved.mean(1) >= 0) & (moved.mean(1) < 60)).all(1)
        assert (expected | ~remain).all()
        assert not remain[3], "beyond the image, though perhaps not beyond the window"
        np.testing.assert_array_equal(remain[:2], expected[:2])
        lost += (~remain[:3]).sum()
    assert 0 < lost < 90


def test_objects_that_are_cut_may_be_left_out() -> None:
    corners = np.array([[[-2.0, 10], [8, 10], [8, 20], [-2, 20]], [[20.0, 20], [30, 20], [30, 30], [20, 30]]])
    image = np.zeros((50, 50, 3), np.uint8)
    for share, expected in ((0.0, [True, True]), (0.8, [True, True]), (0.81, [False, True]), (1.0, [False, True])):
        remain = augment(image, corners, np.random.default_rng(0), config(visible=share))[2]
        assert remain.tolist() == expected, share
    for seed in range(20):
        _, moved, remain = augment(image, corners, np.random.default_rng(seed), config(visible=1.0, crop=40))
        np.testing.assert_array_equal(remain, ((moved > -1e-9) & (moved < 40 + 1e-9)).all((1, 2)) & [False, True])


def test_no_change_changes_nothing() -> None:
    image, corners, remain = draw(0, config())
    np.testing.assert_array_equal(image, image_with_discs())
    np.testing.assert_array_equal(corners, CORNERS)
    assert remain.all()


def test_flips_come_in_the_shares_of_the_recipe() -> None:
    published = config(flip_horizontal=0.25, flip_vertical=0.25, flip_diagonal=0.25)
    flips = ("flip-horizontal", "flip-vertical", "flip-diagonal")
    originals = {name: CHANGES[name](image_with_discs(), CORNERS)[1] for name in flips} | {"none": CORNERS}
    rng = np.random.default_rng(0)
    blank, counts = np.zeros((HEIGHT, WIDTH, 3), np.uint8), dict.fromkeys(originals, 0)
    for _ in range(2000):
        corners = augment(blank, CORNERS, rng, published)[1]
        counts[next(name for name, expected in originals.items() if np.allclose(corners, expected))] += 1
    assert all(430 < count < 570 for count in counts.values()), counts


@pytest.mark.parametrize("changes", [{"flip_horizontal": 1.0}, {"flip_diagonal": 1.0}, {"quarter_turns": 1.0}])
def test_flips_and_quarter_turns_keep_every_object(changes: dict) -> None:
    corners = np.random.default_rng(0).uniform(-30, 170, (40, 4, 2))  # outside ones, too
    for seed in range(5):
        _, moved, remain = draw(seed, config(**changes), corners)
        assert remain.all()
        assert moved.shape == corners.shape


def test_objects_leave_with_their_centre() -> None:
    corners = CORNERS + np.array([[-40.0, 0], [0, 0], [40, 0]])[:, None]
    lost = 0
    for seed in range(30):
        image, moved, remain = draw(seed, config(translate=0.5), corners)
        centre = moved.mean(1)
        expected = (centre[:, 0] >= 0) & (centre[:, 0] < image.shape[1]) & (centre[:, 1] >= 0) & (centre[:, 1] < image.shape[0])
        np.testing.assert_array_equal(remain, expected)
        lost += (~remain).sum()
    assert 0 < lost < 90


def test_background() -> None:
    _, corners, remain = draw(3, config(rotate=1.0, flip_horizontal=1.0, quarter_turns=1.0), np.zeros((0, 4, 2)))
    assert corners.shape == (0, 4, 2)
    assert remain.shape == (0,)


def test_the_seed_decides() -> None:
    everything = config(flip_horizontal=0.5, rotate=0.5, scale=(0.5, 2.0), translate=0.2, brightness=0.3, saturation=0.5, hue=0.2)
    first, second, other = draw(1, everything), draw(1, everything), draw(2, everything)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(first[1], other[1])


def test_the_source_is_not_written_to() -> None:
    image, corners = image_with_discs(), CORNERS.copy()
    everything = config(flip_horizontal=0.5, flip_vertical=0.5, quarter_turns=1, rotate=1, brightness=0.3, hue=0.2)
    for seed in range(5):
        augment(image, corners, np.random.default_rng(seed), everything)
    np.testing.assert_array_equal(image, image_with_discs())
    np.testing.assert_array_equal(corners, CORNERS)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, (16, 20, 3), np.uint8)


def test_colour_jitter_without_ranges_is_nothing() -> None:
    np.testing.assert_array_equal(colour_jitter(noise(), np.random.default_rng(0), config()), noise())


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
def test_colour_jitter_changes_what_it_says(kind: str) -> None:
    source, grey = noise().astype(float), np.array([0.299, 0.587, 0.114])
    spread = []
    for seed in range(20):
        image = colour_jitter(noise(), np.random.default_rng(seed), config(**{kind: 0.25})).astype(float)
        if kind == "brightness":
            ratio = image.mean() / source.mean()
            np.testing.assert_allclose(image, source * ratio, atol=1.5)
        elif kind == "contrast":
            ratio = image.std() / source.std()
            assert image.mean() == pytest.approx(source.mean(), abs=1)
        elif kind == "saturation":
            ratio = (image - (image @ grey)[..., None]).std() / (source - (source @ grey)[..., None]).std()
            np.testing.assert_allclose(image @ grey, source @ grey, atol=1.5)
        else:
            hsv = [cv2.cvtColor(x.astype(np.uint8), cv2.COLOR_RGB2HSV) for x in (image, source)]
            np.testing.assert_allclose(hsv[0][..., 2], hsv[1][..., 2], atol=1)
            ratio = 1 + np.median((hsv[0][..., 0].astype(int) - hsv[1][..., 0] + 90) % 180 - 90) / 180
        spread.append(ratio)
    assert 0.7 < min(spread) < 0.9 < 1.1 < max(spread) < 1.3
