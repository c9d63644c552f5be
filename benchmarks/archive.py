"""Archives through Ray: tiles a second with one worker and with two, beside plain prediction; and what the driver takes at most.

python benchmarks/archive.py [--workers 1 2] [--scenes 6]
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measure import save
from rich.console import Console
from scene import random_detector, write_raster

from rotanext.archive.cluster import ClusterOptions, predict_archive
from rotanext.archive.work import Job, load_weights
from rotanext.detections import Detections
from rotanext.errors import Problems
from rotanext.images.raster import Raster, settings
from rotanext.inference.detector import Detector
from rotanext.inference.predict import PredictOptions, predict
from rotanext.system.progress import Display

BACKBONE, SCORE, CHUNK = "convnext_atto", 0.5, 4
EMPTY_SCENES, EMPTY_CHUNK = 200, 8


class Clock(Display):
    """Notes when how many tiles had been computed."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.ticks: list[tuple[float, int, float]] = []

    @contextmanager
    def archive(self, total: int) -> Iterator[Callable[[int | None, int | None], None]]:
        """See `Reporter.archive`."""

        def tick(finished: int | None, computed: int | None) -> None:
            if computed:
                self.ticks.append((time.perf_counter(), computed, time.process_time()))

        yield tick

    def rate(self) -> tuple[float, float]:
        """Tiles a second between the first result and the last, and the driver's seconds of processor a tile."""
        (first, _, used), (last, _, used_last) = self.ticks[0], self.ticks[-1]
        tiles = sum(count for _, count, _ in self.ticks[1:])
        return tiles / (last - first), (used_last - used) / tiles


def find_nothing(weights: bytes, job: Job) -> Detector:
    """A detector that reads no tile of a scene of several chunks and finds a hundred boxes in each: Ray's work is what is left."""
    found = load_weights(weights, job)
    boxes = torch.rand(100, 5) * 500 + 20
    each = Detections(boxes, torch.rand(100), torch.zeros(100, dtype=torch.long), job.class_names)

    def on_tiles(scene: Any, part: range, **_: Any) -> list[tuple[int, Detections]]:
        return [(index, each) for index in part]

    found.on_tiles = on_tiles  # type: ignore[method-assign]
    return found


def plain_rate(detector: Detector, source: Path, folder: Path, options: PredictOptions) -> tuple[float, int]:
    """Tiles a second of prediction without Ray in this process, with one thread; and the tiles of all scenes."""
    tiles = 0
    for path in source.iterdir():
        with Raster(path) as raster:
            tiles += detector.tile_count(raster.width, raster.height)
    torch.set_num_threads(1)
    first = next(source.iterdir())
    predict(detector, first, folder / "warm", options, Problems(strict=True), Display(Console(quiet=True)))
    start = time.perf_counter()
    predict(detector, source, folder / "plain", options, Problems(strict=True), Display(Console(quiet=True)))
    return tiles / (time.perf_counter() - start), tiles


def archive(
    detector: Detector, source: Path, out: Path, options: PredictOptions, cluster: ClusterOptions, **changes: Any
) -> tuple[float, float, float]:
    """The clock's rate and driver's seconds a tile, and seconds in all, of one archive."""
    clock, start = Clock(), time.perf_counter()
    done = predict_archive(detector, str(source), str(out), options, cluster, Problems(strict=True), clock, **changes)
    assert done.done == done.scenes
    return *clock.rate(), time.perf_counter() - start


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--part", choices=["speed", "driver"])
    given = parser.parse_args()
    options = PredictOptions(score_threshold=SCORE, images=False)
    with tempfile.TemporaryDirectory() as name, settings():
        folder = Path(name)
        write_raster(folder / "drawn.tif", folder / "drawn")
        detector = random_detector(BACKBONE, "cpu", "fp32")
        if given.part != "driver":
            speed(detector, folder, options, given)
        if given.part != "speed":
            driver(detector, folder, options)


def copies(folder: Path, count: int) -> Path:
    """A folder of so many scenes."""
    source = folder / f"scenes{count}"
    source.mkdir()
    for k in range(count):
        (source / f"s{k}.tif").symlink_to(folder / "drawn.tif")
    return source


def speed(detector: Detector, folder: Path, options: PredictOptions, given: argparse.Namespace) -> None:
    """The table of workers."""
    source = copies(folder, given.scenes)
    bare, tiles = plain_rate(detector, source, folder, options)
    rows = [["plain prediction, one thread", f"{bare:.2f} tiles/s", "", "", ""]]
    rates = []
    for count in given.workers:
        rate, _, seconds = archive(detector, source, folder / f"out{count}", options, ClusterOptions("local", count, 1, CHUNK))
        rates.append(rate)
        share = 100 * rate / (bare * count)
        efficiency = 100 * rate / rates[0] * given.workers[0] / count
        what = f"{count} worker{'s' * (count > 1)} of one core, {tiles} tiles in chunks of {CHUNK}"
        rows.append([what, f"{rate:.2f} tiles/s", f"{efficiency:.0f} %", f"{share:.0f} %", f"{seconds:.0f} s"])
    header = ["what", "rate between first and last result", "of the first row's, a worker", "of plain prediction", "in all"]
    save("archive-cpu", f"An archive through Ray, in one machine: {BACKBONE}", header, rows)


def driver(detector: Detector, folder: Path, options: PredictOptions) -> None:
    """The table of the driver's own work."""
    source = copies(folder, EMPTY_SCENES)
    rate, used, _ = archive(
        detector, source, folder / "none", options, ClusterOptions("local", 2, 1, EMPTY_CHUNK), load=find_nothing
    )
    with Raster(next(source.iterdir())) as raster:
        tiles = detector.tile_count(raster.width, raster.height)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    rows = [
        ["scenes a second", f"{rate / tiles:.1f}"],
        ["chunks a second", f"{rate / tiles * -(-tiles // EMPTY_CHUNK):.1f}"],
        ["the driver's processor time", f"{1e3 * used * tiles:.1f} ms a scene, {100 * used * rate:.0f} % of a core"],
        ["the driver's memory", f"{memory:.2f} GB"],
    ]
    what = f"What Ray and the driver take: {EMPTY_SCENES} scenes of {tiles} tiles in chunks of {EMPTY_CHUNK}"
    note = "Two workers on two cores compute nothing and find 100 boxes a tile; planning, merging and writing included."
    save("archive-driver", what, ["", "measured"], rows, note)


if __name__ == "__main__":
    main()
