"""Detection on a scene of any size: windows are read ahead, computed in batches, and merged row by row."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from rotanext.data.tiles import starts
from rotanext.detections import Detections
from rotanext.errors import UserError
from rotanext.images.scenes import Crop, Scene
from rotanext.inference.stitch import MergeRule, SceneMerger, Window
from rotanext.system.readahead import read_ahead

Tile = tuple[Crop, np.ndarray | None]  # and which pixels hold data (None: all)
Tick = Callable[[int, int], None]  # hears how many tiles are done, and of how many


def unheard(done: int, total: int) -> None:
    """A `Tick` for nobody."""


@dataclass(frozen=True)
class Tiling:
    """How a scene is cut: square tiles that overlap by `overlap`, computed `batch_size` at a time, read by `readers` threads.

    They are merged in a thread of its own if `merge_aside`. With a model on the CPU they should not be: once torch's operators
    are used by a second thread, the model's own threads wait for each other asleep (0.4 s a tile become 0.5; docs/log.md).
    """

    tile: int
    overlap: int
    batch_size: int = 1
    readers: int = 1
    merge_aside: bool = False

    def count(self, width: int, height: int) -> int:
        """How many `windows` a scene has."""
        return len(starts(width, self.tile, self.overlap)) * len(starts(height, self.tile, self.overlap))

    def windows(self, width: int, height: int) -> list[Window]:
        """The tiles of a scene, row by row; the last of a row or column moves back to the edge."""
        size = Window(0, 0, min(self.tile, width), min(self.tile, height))
        columns = starts(width, self.tile, self.overlap)
        return [size._replace(x=x, y=y) for y in starts(height, self.tile, self.overlap) for x in columns]


def detect_scene(
    scene: Scene,
    detect: Callable[[list[Crop]], list[Detections]],
    class_names: tuple[str, ...],
    tiling: Tiling,
    rule: MergeRule,
    tick: Tick = unheard,
) -> Detections:
    """Detections of a scene, best first, in its pixels; `detect` takes up to `batch_size` crops of one size.

    Reading and computing overlap, and merging where the `Tiling` says so. Tiles without data are skipped, and those of one colour
    unless it is a scene's only one; boxes whose centre has no data are dropped. `tick` hears how many tiles are done.
    """
    windows = tiling.windows(scene.width, scene.height)
    merger = SceneMerger(scene.width, scene.height, class_names, rule)
    with _merging(merger, tiling.merge_aside) as merge:
        for found in detect_tiles(scene, detect, tiling, windows, range(len(windows))):
            merge([(windows[index], detections) for index, detections in found])
            tick(found[-1][0] + 1, len(windows))
    tick(len(windows), len(windows))
    return merger.finish()


def detect_tiles(
    scene: Scene, detect: Callable[[list[Crop]], list[Detections]], tiling: Tiling, windows: list[Window], part: range
) -> Iterator[list[tuple[int, Detections]]]:
    """Detections of those tiles of a scene that show something, in their own pixels, a batch at a time; `part` says which tiles.

    Tiles are known by their index in `windows`, the scene's by this tiling.
    """
    for batch in _batches(_shown(scene, windows, tiling, part), tiling.batch_size):
        found = detect([crop for _, (crop, _) in batch])
        yield [(index, _on_data(detections, valid)) for (index, (_, valid)), detections in zip(batch, found, strict=True)]


def _on_data(found: Detections, valid: np.ndarray | None) -> Detections:
    """The detections whose centre is a pixel with data, or lies outside the tile."""
    if valid is None or not len(found):
        return found
    x, y = found.boxes[:, :2].long().unbind(1)
    height, width = valid.shape
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    shown = torch.from_numpy(valid)[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return found.where(shown | ~inside)


@contextmanager
def _merging(merger: SceneMerger, aside: bool) -> Iterator[Callable[[list[tuple[Window, Detections]]], None]]:
    """A function that merges tiles, at once or aside: then it returns while they are merged, and waits for those before."""

    def merge(tiles: list[tuple[Window, Detections]]) -> None:
        for window, found in tiles:
            merger.add(found, window)

    if not aside:
        yield merge
        return
    with ThreadPoolExecutor(1) as pool:
        last: Future[None] = pool.submit(merge, [])

        def merge_aside(tiles: list[tuple[Window, Detections]]) -> None:
            nonlocal last
            last.result()
            last = pool.submit(merge, tiles)

        yield merge_aside
        last.result()


def _shown(scene: Scene, windows: list[Window], tiling: Tiling, part: range) -> Iterator[tuple[int, Tile]]:
    """The tiles of a part that show something, with indices, in order; a batch and one for each reader are read in advance."""
    read = partial(_read, scene, windows, len(windows) > 1)
    for index, tile in read_ahead(part, read, threads=tiling.readers, ahead=tiling.batch_size + tiling.readers):
        if isinstance(tile, UserError):
            raise tile
        if tile is not None:
            yield index, tile


def _read(scene: Scene, windows: list[Window], several: bool, index: int) -> Tile | None:
    """A tile and which of its pixels hold data, or None where nothing is to be seen in it."""
    crop, valid = scene.read(*windows[index])
    if valid is not None and not valid.any():
        return None
    if several and _of_one_colour(crop if valid is None else crop[valid][:, None]):
        return None
    return crop, valid


def _of_one_colour(pixels: np.ndarray) -> bool:
    """Whether pixels `[H, W, 3]` are all the same; a few rows tell for nearly every image."""
    if (pixels[:: max(1, len(pixels) // 8)] != pixels[0, 0]).any():
        return False
    return bool((pixels[1:] == pixels[:-1]).all())


def _batches(tiles: Iterable[tuple[int, Tile]], size: int) -> Iterator[list[tuple[int, Tile]]]:
    batch: list[tuple[int, Tile]] = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
