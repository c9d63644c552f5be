"""Tiles: windows that cover an image, and the names that say where they lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotanext.data.tiles import TileName, parse_tile_name, scene_of_tile, starts, tile_name, windows


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("P0032__1.0__824___0", TileName("P0032", 1.0, 824, 0)),
        ("P0032__1__824___0", TileName("P0032", 1.0, 824, 0)),
        ("P0032__0.5__10___20", TileName("P0032", 0.5, 10, 20)),
        ("P0032__16__10___20", TileName("P0032", 16.0, 10, 20)),
        ("P0032__1024__824___1648", TileName("P0032", 1.0, 824, 1648)),  # a size: source pixels, no rate
        ("P0032__682__0___0", TileName("P0032", 1.0, 0, 0)),
        ("a__b__1.5__c__1.0__-5___7", TileName("a__b__1.5__c", 1.0, -5, 7)),
        ("P1__1.0__0___0__1024__824___0", TileName("P1__1.0__0___0", 1.0, 824, 0)),  # a tile of a tile: the last part
        ("my scene__512__0___0", TileName("my scene", 1.0, 0, 0)),
        ("P0032", None),
        ("P0032__1.0__824__0", None),
        ("P0032__0__824___0", None),
        ("P0032__20__824___0", None),
        ("P0032__512.5__824___0", None),
        ("__1.0__824___0", None),
        ("P0032__1.0__824___0.png", None),
    ],
)
def test_tile_names(name: str, expected: TileName | None) -> None:
    assert parse_tile_name(name) == expected


@pytest.mark.parametrize(("size", "x", "y"), [(1024, 824, 0), (32, 0, 7), (682, 1000000, 3)])
@pytest.mark.parametrize("stem", ["P0032", "a__b", "P1__1.0__0___0", "my scene"])
def test_names_are_read_as_they_are_written(stem: str, size: int, x: int, y: int) -> None:
    assert parse_tile_name(tile_name(stem, size, x, y)) == TileName(stem, 1.0, x, y)
    assert scene_of_tile(tile_name(stem, size, x, y)) == stem


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("P0001__20__0___0", "P0001"),  # neither size nor rate, but a tile all the same
        ("P0001__0.5__-10___824", "P0001"),
        ("P0001", "P0001"),
        ("a___b", "a___b"),
        ("P0001__1024__0___0__x", "P0001__1024__0___0__x"),
    ],
)
def test_scenes_of_tiles(name: str, scene: str) -> None:
    assert scene_of_tile(name) == scene


def test_starts() -> None:
    assert starts(100, 100, 20) == [0]
    assert starts(101, 100, 20) == [0, 1]
    assert starts(260, 100, 20) == [0, 80, 160]


ONE = ([1024], [200])
POOLED = ([2048, 1024, 682], [1000, 500, 333])  # rates 0.5, 1.0, 1.5 of 1024 with overlap 500
WINDOWS = [
    # width, height, sizes and overlaps, windows expected
    (1024, 1024, ONE, [(0, 0, 1024)]),
    (1025, 1024, ONE, [(0, 0, 1024), (1, 0, 1024)]),
    (1848, 1024, ONE, [(0, 0, 1024), (824, 0, 1024)]),
    (1849, 1024, ONE, [(0, 0, 1024), (824, 0, 1024), (825, 0, 1024)]),
    (451, 839, ONE, [(0, 0, 1024)]),  # 36 % image, but nothing better
    (1, 1, ONE, [(0, 0, 1024)]),
    (1, 5000, ONE, [(0, y, 1024) for y in (0, 824, 1648, 2472, 3296, 3976)]),
    (10, 6, ([10], [0]), [(0, 0, 10)]),  # exactly 60 %
    (25, 4, ([10], [0]), [(0, 0, 10), (10, 0, 10), (15, 0, 10)]),  # all alike: all stay
    (
        1024,
        1024,
        POOLED,
        [(0, 0, 1024), (0, 0, 682), (0, 342, 682), (342, 0, 682), (342, 342, 682)],
    ),  # the first is 25 %
    (500, 400, POOLED, [(0, 0, 682)]),  # 43 % beats 19 % and 5 %
    (10, 5, ([10, 20], [2, 4]), [(0, 0, 10)]),
]


@pytest.mark.parametrize(("width", "height", "scales", "expected"), WINDOWS)
def test_windows(width: int, height: int, scales: tuple[list[int], list[int]], expected: list[tuple[int, int, int]]) -> None:
    assert windows(width, height, *scales) == expected


def test_windows_of_several_rates() -> None:
    found = windows(4000, 3000, *POOLED)
    counts = [sum(size == wanted for _, _, size in found) for wanted in POOLED[0]]
    assert counts == [3 * 2, 7 * 5, 11 * 8]
    assert len(set(found)) == len(found)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.data())
def test_windows_cover_the_image(width: int, height: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    covered = np.zeros((height, width), bool)
    for x, y, _ in windows(width, height, [size], [overlap], min_image=0):
        assert x + size <= max(width, size)
        assert y + size <= max(height, size)
        covered[y : y + size, x : x + size] = True
    assert covered.all()
