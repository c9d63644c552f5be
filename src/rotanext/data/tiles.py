"""Tiles of an image: where they lie, and the names that say so."""

import re
from collections.abc import Sequence
from typing import NamedTuple

ANY_TILE = "*__*__*___*"  # a glob for the names of files that hold tiles
_NAME = re.compile(r"(?P<stem>.+)__(?P<size>\d+(?:\.\d+)?)__(?P<x>-?\d+)___(?P<y>-?\d+)")
_LARGEST_RATE, _SMALLEST_SIZE = 16.0, 32
_MIN_IMAGE = 0.6  # of a window, by area


class TileName(NamedTuple):
    """Where a tile lies: scene coordinates = (tile coordinates + (x, y)) / rate."""

    stem: str
    rate: float
    x: int
    y: int


def tile_name(stem: str, size: int, x: int, y: int) -> str:
    """The name of the tile of `size` source pixels a side whose top left pixel is (x, y): `P0032__1024__824___0`."""
    return f"{stem}__{size}__{x}___{y}"


def parse_tile_name(name: str) -> TileName | None:
    """Read `{stem}__{size or rate}__{x}___{y}`; None for any other name. The stem may contain "__" itself.

    The middle field has two meanings in the field's data sets. DOTA_devkit writes the rate by which the image was
    resized before it was cut (`P0032__1.0__824___0`): offsets and coordinates are divided by it. `rotanext split`
    writes the window's size in pixels of the source, which is not resized. Up to 16 it is a rate, an integer from 32 on
    a size.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    size = float(match["size"])
    is_rate = 0 < size <= _LARGEST_RATE
    if not is_rate and (size < _SMALLEST_SIZE or size != int(size)):
        return None
    return TileName(match["stem"], size if is_rate else 1.0, int(match["x"]), int(match["y"]))


def scene_of_tile(name: str) -> str:
    """The name of the image that a tile was cut from, whatever its size or rate means; any other name as it is."""
    match = _NAME.fullmatch(name)
    return match["stem"] if match else name


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where windows of a size begin that cover a length: `size - overlap` apart, the last one moved back to the end."""
    if length <= size:
        return [0]
    step = size - overlap
    return [*range(0, length - size, step), length - size]


def windows(
    width: int, height: int, sizes: Sequence[int], overlaps: Sequence[int], min_image: float = _MIN_IMAGE
) -> list[tuple[int, int, int]]:
    """Square windows `(x, y, size)` that cover an image, for several sizes pooled; column by column.

    Steps are size - overlap, and the last window of a row or column moves back to the image's edge. Windows with a
    smaller share of image than `min_image` are dropped unless none would remain; then those within 0.01 of the best
    stay.
    """
    found, shares = [], []
    for size, overlap in zip(sizes, overlaps, strict=True):
        for x in starts(width, size, overlap):
            for y in starts(height, size, overlap):
                found.append((x, y, size))
                shares.append(min(size, width - x) * min(size, height - y) / size**2)
    if not found:
        return []
    limit = min_image if max(shares) >= min_image else max(shares) - 0.01
    return [window for window, share in zip(found, shares, strict=True) if share >= limit]
