"""Running a detector over labelled pictures and scoring it by the DOTA protocol."""

import json
from collections.abc import Iterable, Sequence
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
from rotanext.progress import Reporter


def detect_all(
    detector: Detector, entries: Iterable[Entry], problems: Problems, batch_size: int = 1
) -> tuple[list[Entry], list[Detections]]:
    """The entries whose pictures can be read, and the detections on each; a damaged picture goes to `problems`."""
    read, detections = [], []
    for entry, image in read_ahead(entries, lambda entry: read_image(entry.path)):
        if isinstance(image, UserError):
            problems.note(str(image))
            continue
        read.append(entry)
        detections.append(detector(image, batch_size=batch_size))
    return read, detections


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
    read, detections = detect_all(detector, Reporter(console).track(entries, "detecting"), problems, batch_size)
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
