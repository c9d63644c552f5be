"""Cutting a DOTA data set into tiles, exactly as the published systems' training data were cut."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from rotanext.data.dota import Item, inside, list_items, read_objects, write_objects
from rotanext.data.tiles import ANY_TILE, tile_name, windows
from rotanext.errors import Problems, UserError, counted, explain
from rotanext.images.reading import FILL, write_png
from rotanext.images.scenes import read_pixels
from rotanext.objects import Objects
from rotanext.polygons import area_inside, signed_area
from rotanext.system.progress import Display

_MIN_OBJECT = 0.7  # of an object, by area
_TRUNCATED = 2


@dataclass(frozen=True)
class SplitReport:
    """What a split wrote: source images, tiles, those without objects, objects (one in two tiles counts twice)."""

    images: int
    tiles: int
    empty_tiles: int
    objects: int
    labelled: bool
    seconds: float

    def text(self, target: Path) -> str:
        """A line for the terminal."""
        labels = "" if self.labelled else " (no labels: images only)"
        return (
            f"{counted(self.tiles, 'tile')} of {counted(self.images, 'image')}, {self.empty_tiles:,} without objects, "
            f"{counted(self.objects, 'object')}, in {self.seconds:.1f} s: {target}{labels}"
        )


def objects_in_window(objects: Objects, x: int, y: int, size: int) -> Objects:
    """The objects with at least 70 % of their area in a window, in its pixels: whole, difficulty 2 where cut."""
    low, high = objects.corners.min(1), objects.corners.max(1)
    near = ((high >= (x, y)) & (low <= (x + size, y + size))).all(1)
    objects = objects.take(near)
    corners = objects.corners - (x, y)
    # Sums of rounded products: without the margin exactly 70 % would be a matter of luck.
    enough = area_inside(corners, size, size) >= (_MIN_OBJECT - 1e-9) * np.abs(signed_area(corners))
    cut = ((corners < -1e-6) | (corners > size + 1e-6)).any((1, 2))
    return Objects(corners, objects.names, np.where(cut, _TRUNCATED, objects.difficult)).take(enough)


def parse_rates(text: str) -> tuple[float, ...]:
    """The scales in a text such as 0.5,1.0,1.5; raises UserError where it is none."""
    try:
        return tuple(float(rate) for rate in text.split(","))
    except ValueError:
        raise UserError(f"--rates is '{text}'; expected numbers with commas between, as in 0.5,1.0,1.5") from None


def split_dataset(
    source: str | Path,
    target: str | Path,
    size: int = 1024,
    overlap: int = 200,
    rates: Sequence[float] = (1.0,),
    *,
    workers: int | None = None,
    problems: Problems | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> SplitReport:
    """Cut the data set `source` (images/, and labelTxt/ unless it is test data) into tiles in `target`.

    A rate r reads windows of size / r source pixels at overlaps of overlap / r and stores them unresized. Every window
    becomes a tile and a label file (empty without objects) named by `tile_name`. Images that cannot be
    read go to `problems`, and the others are cut. Raises `UserError` for options that make no sense, a target that is
    in use, a full disk, or if nothing could be read. Each worker is a thread and holds one image in memory.
    """
    source, target = Path(source), Path(target)
    problems = Problems() if problems is None else problems
    sizes, overlaps = _scales(size, overlap, rates)
    # Test data have no labels; a label folder under another name is a mistake, which list_items explains.
    labelled = any(entry.is_dir() and entry.name.lower().startswith("label") for entry in source.glob("*"))
    items = list_items(source, problems, labelled)
    _prepare(source, target, overwrite, labelled)
    cut = partial(_split_image, target=target, sizes=sizes, overlaps=overlaps, strict=problems.strict)
    workers = min(workers or os.cpu_count() or 1, len(items))
    started = time.monotonic()
    results = map(cut, items) if workers == 1 else _in_threads(cut, items, workers)
    done = tiles = empty = objects = 0
    display = Display(Console(stderr=True, quiet=not progress))
    for result in display.track(results, "splitting", len(items), "tiles", attrgetter("tiles"), moment=0):
        problems.merge(result.problems)
        done, tiles, objects = done + result.done, tiles + result.tiles, objects + result.objects
        empty += result.empty_tiles
    if not done:
        first = problems.first[0] if problems.first else ""
        raise UserError(explain(source, "no image that could be read", "at least one", f"The first: {first}"))
    return SplitReport(done, tiles, empty, objects, labelled, time.monotonic() - started)


@dataclass
class _Result:
    """What one image gave."""

    problems: Problems
    done: bool = False
    tiles: int = 0
    empty_tiles: int = 0
    objects: int = 0


def _scales(size: int, overlap: int, rates: Sequence[float]) -> tuple[list[int], list[int]]:
    """Window sizes and overlaps in source pixels, one a rate; refuses options that make no sense."""

    def refuse(option: str, found: object, expected: str) -> UserError:
        return UserError(explain(option, str(found), expected, "Change the option."))

    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise refuse("--rates", list(rates), "one or more numbers above 0")
    if size < 1:
        raise refuse("--size", size, "at least 1 pixel")
    if not 0 <= overlap < size:
        raise refuse("--overlap", overlap, f"0 or more, and less than the size {size}")
    scales = list(dict.fromkeys((int(size / rate), int(overlap / rate)) for rate in rates))
    if any(window <= between for window, between in scales):
        raise refuse("--rates", list(rates), f"rates that leave windows of at least a pixel (from size {size}, overlap {overlap})")
    return [window for window, _ in scales], [between for _, between in scales]


def _prepare(source: Path, target: Path, overwrite: bool, labelled: bool) -> None:
    """Make the target's folders; an old split there is refused, or its tiles removed."""
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents:
        raise UserError(explain(target, f"a target inside the source {source}", "another one", "Choose one beside it."))
    if target.exists() and not target.is_dir():
        raise UserError(explain(target, "a file", "a folder to write to", "Choose another target."))
    if not overwrite and target.is_dir() and any(target.iterdir()):
        advice = "Choose another target, or replace its tiles with --overwrite."
        raise UserError(explain(target, "files in the target", "a new or empty folder", advice))
    try:
        for name in ("images", "labelTxt") if labelled else ("images",):
            (target / name).mkdir(parents=True, exist_ok=True)
        for name, suffix in (("images", "png"), ("labelTxt", "txt")):
            for tile in (target / name).glob(f"{ANY_TILE}.{suffix}"):
                tile.unlink()
    except OSError as error:
        reason = f"that it cannot be written ({error.strerror})"
        raise UserError(explain(target, reason, "a writable folder", "Choose another target.")) from error


def _split_image(item: Item, target: Path, sizes: Sequence[int], overlaps: Sequence[int], strict: bool) -> _Result:
    """Write every tile of one image, which is decoded once."""
    result = _Result(Problems(strict))
    try:
        image = read_pixels(item.image)
        objects = None if item.label is None else read_objects(item.label, result.problems, image=item.image)
    except UserError as error:
        if strict:
            raise
        result.problems.merge(Problems(count=1, first=[str(error)]))
        return result
    height, width = image.shape[:2]
    if objects is not None and item.label is not None:
        objects = inside(objects, width, height, result.problems, item.label)
    for x, y, size in windows(width, height, sizes, overlaps):
        name = tile_name(item.stem, size, x, y)
        tile = image[y : y + size, x : x + size]
        below, right = size - tile.shape[0], size - tile.shape[1]
        if below or right:
            tile = cv2.copyMakeBorder(tile, 0, below, 0, right, cv2.BORDER_CONSTANT, value=FILL)
        write_png(target / "images" / f"{name}.png", tile)
        if objects is not None:
            held = objects_in_window(objects, x, y, size)
            write_objects(target / "labelTxt" / f"{name}.txt", held)
            result.objects += len(held)
            result.empty_tiles += not len(held)
        result.tiles += 1
    result.done = True
    return result


def _in_threads(cut: Callable[[Item], _Result], items: Sequence[Item], workers: int) -> Iterable[_Result]:
    """Results as they come; on an error or Ctrl-C the threads end after the image in hand.

    Decoding, encoding and writing, which are nearly all of the work, let other threads run.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(cut, item) for item in items]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
