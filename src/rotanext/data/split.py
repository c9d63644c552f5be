"""Cutting a DOTA data set into tiles, exactly as the published systems' training data were cut."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from rotanext.data.dota import Item, inside, list_items, read_objects, write_objects
from rotanext.data.tiles import ANY_TILE, tile_name, windows
from rotanext.errors import Problems, UserError, explain
from rotanext.images.reading import FILL, write_png
from rotanext.images.scenes import read_pixels
from rotanext.objects import Objects

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


def objects_in_window(objects: Objects, x: int, y: int, size: int) -> Objects:
    """The objects with at least 70 % of their area in a window, in its pixels: whole, difficulty 2 where cut."""
    low, high = objects.corners.min(1), objects.corners.max(1)
    near = ((high >= (x, y)) & (low <= (x + size, y + size))).all(1)
    objects = objects.take(near)
    corners = objects.corners - (x, y)
    # Sums of rounded products: without the margin exactly 70 % would be a matter of luck.
    enough = _area_inside(corners, size) >= (_MIN_OBJECT - 1e-9) * _area_inside(corners, None)
    cut = ((corners < -1e-6) | (corners > size + 1e-6)).any((1, 2))
    return Objects(corners, objects.names, np.where(cut, _TRUNCATED, objects.difficult)).take(enough)


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
    for result in _with_progress(results, len(items), progress):
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


def _area_inside(corners: np.ndarray, size: int | None) -> np.ndarray:
    """Area `[N]` of quadrilaterals `[N, 4, 2]`, convex or not, inside the window [0, size]^2 (None: the whole).

    Clamping to the window maps everything outside onto its border, so the clamped outline encloses the area inside. An
    edge's clamped image bends where the edge crosses the window's four lines.
    """
    edges = np.roll(corners, -1, 1) - corners
    outline = corners
    if size is not None:
        limits = np.array([0.0, size])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = (limits - corners[..., None]) / edges[..., None]  # [N, 4, xy, low and high]
        at = np.nan_to_num(at.reshape(len(corners), 4, 4), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
        at = np.sort(np.concatenate([np.zeros_like(at[..., :1]), at], -1), -1)
        points = corners[:, :, None] + at[..., None] * edges[:, :, None]
        outline = points.reshape(len(corners), 20, 2).clip(0, size)
    origin = outline[:, :1]  # small numbers keep their digits
    x, y = np.moveaxis(outline - origin, -1, 0)
    return np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1)) / 2


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
    assert item.image is not None
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


def _with_progress(results: Iterable[_Result], total: int, show: bool) -> Iterable[_Result]:
    """Pass results on, drawing a bar with rate and time left on a terminal and now and then a plain line elsewhere."""
    if not show:
        yield from results
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("splitting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task, tiles, started = bar.add_task("", total=total, rate=""), 0, time.monotonic()
            for result in results:
                tiles += result.tiles
                bar.update(task, advance=1, rate=f"{tiles / (time.monotonic() - started):.1f} tiles/s")
                yield result
    else:
        tiles, started, shown = 0, time.monotonic(), time.monotonic()
        for done, result in enumerate(results, 1):
            tiles += result.tiles
            now = time.monotonic()
            if now - shown > 5 or done == total:
                shown, rate = now, tiles / max(now - started, 1e-9)
                left = (now - started) / done * (total - done)
                print(f"split {done}/{total} images, {rate:.1f} tiles/s, {left:.0f} s left", file=sys.stderr, flush=True)
            yield result
