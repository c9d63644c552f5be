"""Running a detector over labelled images and scoring it by the DOTA protocol."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
from rich.console import Console

from rotanext.data.index import Entry, read_entries
from rotanext.data.task1 import check_task1_target, write_task1
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError
from rotanext.evaluation.merge import merge_task1
from rotanext.evaluation.metrics import THRESHOLDS, Evidence, Predictions, Scores, Truths, read_evidence
from rotanext.images.scenes import open_scene, raster_settings
from rotanext.inference.detector import Detector
from rotanext.system.files import make_folder
from rotanext.system.processes import Processes
from rotanext.system.progress import Display
from rotanext.system.readahead import read_ahead

_AT_ONCE = 32  # images of a process


@dataclass
class Stopwatch:
    """How long detecting took: tiles and seconds of each image; `begun` is when the whole began.

    Decoding an image does not count, which happens ahead; reading a raster's windows does.
    """

    begun: float = field(default_factory=time.monotonic)
    tiles: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Figures by name; the first image, at which the detector gets ready, is left out where there are several."""
        first = min(1, len(self.seconds) - 1)
        seconds = sum(self.seconds[first:]) if self.seconds else 0.0
        if seconds <= 0:
            return {}
        return {
            "images/s, detection alone": (len(self.seconds) - first) / seconds,
            "tiles/s, detection alone": sum(self.tiles[first:]) / seconds,
            "images/s with reading and getting ready": len(self.seconds) / (time.monotonic() - self.begun),
            "images": len(self.seconds),
            "tiles": sum(self.tiles),
        }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out of an evaluation, what it was computed from, and how fast."""

    scores: Scores
    evidence: Evidence
    speed: Mapping[str, float]


def detect_each(
    detector: Detector, entries: Iterable[Entry], batch_size: int = 1, watch: Stopwatch | None = None
) -> Iterator[tuple[Entry, Detections | UserError]]:
    """Every entry with the detections on its image, found as `predict` finds them, or with the reason why that cannot be read."""
    with raster_settings():
        for entry, scene in read_ahead(entries, lambda entry: open_scene(entry.path)):
            if isinstance(scene, UserError):
                yield entry, scene
                continue
            start = time.monotonic()
            with closing(scene):
                try:
                    found = detector.on_scene(scene, batch_size=batch_size)  # on the CPU: nothing is still being computed
                except UserError as error:  # a window that cannot be read
                    yield entry, error
                    continue
            if watch is not None:
                watch.seconds.append(time.monotonic() - start)
                watch.tiles.append(detector.tile_count(scene.width, scene.height))
            yield entry, found


def keep_readable(
    found: Iterable[tuple[Entry, Detections | UserError]], problems: Problems
) -> tuple[list[Entry], list[Detections]]:
    """The entries whose images could be read, and the detections on each; the others go to `problems`."""
    read, detections = [], []
    for entry, result in found:
        if isinstance(result, UserError):
            problems.note(str(result))
            continue
        read.append(entry)
        detections.append(result)
    return read, detections


def detect_all(
    detector: Detector, entries: Iterable[Entry], problems: Problems, batch_size: int = 1, watch: Stopwatch | None = None
) -> tuple[list[Entry], list[Detections]]:
    """The entries whose images can be read, and the detections on each; a damaged image goes to `problems`."""
    return keep_readable(detect_each(detector, entries, batch_size, watch), problems)


def detect_shared(
    detector: Detector, entries: Sequence[Entry], mine: Iterable[Entry], processes: Processes, stopped: Callable[[], bool]
) -> list[tuple[Entry, Detections | UserError]] | None:
    """`detect_each` by several processes, of which this one takes `mine`, every so-manieth entry; in order, on the main process.

    Results travel a few at a time. None, on all, where `stopped` in one of them; an empty list on all but the main process.
    """
    each = detect_each(detector, takewhile(lambda _: not stopped(), mine))
    found: list[tuple[Entry, Detections | UserError]] = []
    for start in range(0, len(entries), _AT_ONCE * processes.count):
        part = [result for _, result in islice(each, _AT_ONCE)]
        if any(processes.sum([stopped()])):
            return None
        parts = processes.gather_on_main(part)
        for place, entry in enumerate(entries[start : start + _AT_ONCE * processes.count] if parts else []):
            found.append((entry, parts[place % processes.count][place // processes.count]))
    return found


def gather(detections: Sequence[Detections], entries: Sequence[Entry], class_names: tuple[str, ...]) -> Evidence:
    """Detections and labelled objects of the same images, as the metrics take them."""
    label_of = {name: i for i, name in enumerate(class_names)}
    predictions = Predictions.of_images((d.corners.double().numpy(), d.scores.numpy(), d.labels.numpy()) for d in detections)
    truths = Truths.of_images(
        (e.objects.corners, np.array([label_of[n] for n in e.objects.names]), e.objects.difficult) for e in entries
    )
    sizes = np.array([e.size for e in entries], np.float64).reshape(-1, 2)
    return Evidence(class_names, predictions, truths, tuple(e.stem for e in entries), tuple(e.path for e in entries), sizes)


def score(
    detections: Sequence[Detections],
    entries: Sequence[Entry],
    class_names: tuple[str, ...],
    thresholds: Sequence[float] = THRESHOLDS,
) -> Scores:
    """The DOTA protocol on whole images: true polygon IoU of the boxes' corners with the labelled quadrilaterals."""
    return gather(detections, entries, class_names).score(thresholds)


def evaluate_weights(
    detector: Detector, data: Path, out: Path, batch_size: int, problems: Problems, console: Console
) -> Evaluation:
    """Score a detector on a DOTA folder, whole images with their tiles merged; its detections are kept in `out`/Task1."""
    check_task1_target(out / "Task1", detector.class_names)
    make_folder(out)
    track = Display(console).track
    entries = read_entries([data], detector.class_names, problems, track)
    watch = Stopwatch()
    read, detections = detect_all(detector, track(entries, "detecting", len(entries)), problems, batch_size, watch)
    if not read:
        raise UserError("\n".join([f"none of the images in {data} could be read", *problems.first]))
    speed = watch.figures()
    named = {entry.stem: found for entry, found in zip(read, detections, strict=True)}
    write_task1(out / "Task1", named, detector.class_names)
    evidence = gather(detections, read, detector.class_names)
    return Evaluation(evidence.score(), evidence, speed)


def evaluate_files(detections: Path, data: Path, out: Path, merge_iou: float | None, problems: Problems) -> Evaluation:
    """Score a folder of Task1 files against a DOTA folder or a folder of label files; tile detections are merged first."""
    make_folder(out)
    merged = out / "merged"
    if merge_iou is not None:
        if merged.resolve() != detections.resolve():
            for old in merged.glob("Task1_*.txt"):  # classes of an earlier evaluation
                old.unlink()
        merge_task1(detections, merged, merge_iou, problems)
        detections = merged
    evidence = read_evidence(detections, data, problems)
    return Evaluation(evidence.score(), evidence, {})
