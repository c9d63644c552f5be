"""Running a detector over labelled pictures and scoring it by the DOTA protocol."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
from rich.console import Console

from rotanext.data.dataset import Entry, read_entries
from rotanext.data.dota import check_task1_target, write_task1
from rotanext.data.images import read_image, write_file
from rotanext.data.readahead import read_ahead
from rotanext.detections import Detections
from rotanext.detector import Detector
from rotanext.errors import Problems, UserError
from rotanext.files import make_folder
from rotanext.merge import merge_task1
from rotanext.metrics import THRESHOLDS, Predictions, Report, Truths, dota_map, evaluate
from rotanext.plots import plot_confusion, plot_precision_recall
from rotanext.processes import Processes
from rotanext.progress import Reporter

_AT_ONCE = 32  # pictures of a process


def detect_each(
    detector: Detector, entries: Iterable[Entry], batch_size: int = 1
) -> Iterator[tuple[Entry, Detections | UserError]]:
    """Every entry with the detections on its picture, or with the reason why that cannot be read."""
    for entry, image in read_ahead(entries, lambda entry: read_image(entry.path)):
        yield entry, image if isinstance(image, UserError) else detector(image, batch_size=batch_size)


def keep_readable(
    found: Iterable[tuple[Entry, Detections | UserError]], problems: Problems
) -> tuple[list[Entry], list[Detections]]:
    """The entries whose pictures could be read, and the detections on each; the others go to `problems`."""
    read, detections = [], []
    for entry, result in found:
        if isinstance(result, UserError):
            problems.note(str(result))
            continue
        read.append(entry)
        detections.append(result)
    return read, detections


def detect_all(
    detector: Detector, entries: Iterable[Entry], problems: Problems, batch_size: int = 1
) -> tuple[list[Entry], list[Detections]]:
    """The entries whose pictures can be read, and the detections on each; a damaged picture goes to `problems`."""
    return keep_readable(detect_each(detector, entries, batch_size), problems)


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


def score(
    detections: Sequence[Detections],
    entries: Sequence[Entry],
    class_names: tuple[str, ...],
    thresholds: Sequence[float] = THRESHOLDS,
) -> Report:
    """The DOTA protocol on whole pictures: true polygon IoU of the boxes' corners with the labelled quadrilaterals."""
    label_of = {name: i for i, name in enumerate(class_names)}
    predictions = Predictions.of_images((d.corners.double().numpy(), d.scores.numpy(), d.labels.numpy()) for d in detections)
    truths = Truths.of_images(
        (e.objects.corners, np.array([label_of[n] for n in e.objects.names]), e.objects.difficult) for e in entries
    )
    return evaluate(predictions, truths, class_names, thresholds)


def evaluate_weights(detector: Detector, data: Path, out: Path, batch_size: int, problems: Problems, console: Console) -> Report:
    """Score a detector on a DOTA folder, whole pictures with their tiles merged; its detections are kept in `out`/Task1."""
    check_task1_target(out / "Task1", detector.class_names)
    make_folder(out)
    entries = read_entries([str(data)], detector.class_names, problems)
    read, detections = detect_all(detector, Reporter(console).track(entries, "detecting", len(entries)), problems, batch_size)
    if not read:
        raise UserError("\n".join([f"none of the pictures in {data} could be read", *problems.first]))
    named = {entry.stem: found for entry, found in zip(read, detections, strict=True)}
    write_task1(out / "Task1", named, detector.class_names)
    return score(detections, read, detector.class_names)


def evaluate_files(detections: Path, data: Path, out: Path, merge_iou: float | None, problems: Problems) -> Report:
    """Score a folder of Task1 files against a DOTA folder or a folder of label files; tile detections are merged first."""
    make_folder(out)
    merged = out / "merged"
    if merge_iou is not None:
        if merged.resolve() != detections.resolve():
            for old in merged.glob("Task1_*.txt"):  # classes of an earlier evaluation
                old.unlink()
        merge_task1(detections, merged, merge_iou, problems)
        detections = merged
    return dota_map(detections, data, problems=problems)


def write_report(report: Report, out: Path) -> None:
    """Write `metrics.json`, `precision_recall.png` and `confusion.png`."""
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "metrics.json", (json.dumps(report.to_json(), indent=1) + "\n").encode())
    plot_precision_recall(report, out / "precision_recall.png")
    plot_confusion(report, out / "confusion.png")
