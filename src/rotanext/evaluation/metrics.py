"""Average precision by the DOTA protocol, with the true IoU of the quadrilaterals as labelled.

Per class: detections of all images by score, best first (ties keep their input order). Each looks at the object of its
class and image that it overlaps most. If that IoU is greater than the threshold, the detection is ignored when the
object is difficult, a true positive when it is the object's first, and a false positive otherwise. Classes without
objects are left out of the mean.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rotanext.data.dota import LABEL_SUFFIXES, images_beside, list_labels, read_objects
from rotanext.data.task1 import read_task1
from rotanext.data.tiles import parse_tile_name
from rotanext.errors import Problems, UserError, explain
from rotanext.evaluation.calibration import calibration
from rotanext.evaluation.scores import THRESHOLDS, ClassResult, Floats, Ints, Scores, TooLarge
from rotanext.images.reading import header_size
from rotanext.ops import overlapping_polygons

__all__ = [
    "THRESHOLDS",
    "Evidence",
    "Predictions",
    "Scores",
    "Truths",
    "all_pairs",
    "best_objects",
    "confusion_matrix",
    "dota_map",
    "evaluate",
    "hits_at",
    "larger_than_image",
    "read_evidence",
]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detections of a set of images, one row each, in the order that decides ties.

    images `[N]` (index of the image), corners `[N, 4, 2]` (x, y in pixels of that image), scores `[N]`, labels `[N]`.
    """

    images: Ints
    corners: Floats
    scores: Floats
    labels: Ints

    @classmethod
    def of_images(cls, items: Iterable[tuple[Any, Any, Any]]) -> "Predictions":
        """Join `(corners [n, 4, 2], scores [n], labels [n])` of image 0, 1, ... (anything `np.asarray` takes)."""
        _, images, (corners, scores, labels) = _join(items)
        return cls(images, corners.reshape(-1, 4, 2), scores, labels.astype(np.int64))


@dataclass(frozen=True, eq=False)
class Truths:
    """Labelled objects of image_count images, one row each.

    images `[M]` (index of the image), corners `[M, 4, 2]` (x, y in pixels of that image), labels `[M]`, difficult `[M]`
    (bool).
    """

    image_count: int
    images: Ints
    corners: Floats
    labels: Ints
    difficult: NDArray[np.bool_]

    @classmethod
    def of_images(cls, items: Iterable[tuple[Any, Any, Any]]) -> "Truths":
        """Join `(corners [n, 4, 2], labels [n], difficult [n])` of image 0, 1, ...; difficult is anything but 0."""
        count, images, (corners, labels, difficult) = _join(items)
        return cls(count, images, corners.reshape(-1, 4, 2), labels.astype(np.int64), difficult != 0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an evaluation is computed from: detections and labelled objects of the images stems, in their order.

    images: the file of each, None where there is none. sizes `[K, 2]`: width and height of each, NaN where they are not known. The
    labels of predictions and truths are indices into class_names.
    """

    class_names: tuple[str, ...]
    predictions: Predictions
    truths: Truths
    stems: tuple[str, ...]
    images: tuple[Path | None, ...]
    sizes: Floats

    @cached_property
    def pairs(self) -> tuple[Ints, Ints, Floats]:
        """See `all_pairs`; computed once."""
        return all_pairs(self.predictions, self.truths)

    def score(self, thresholds: Sequence[float] = THRESHOLDS) -> Scores:
        """`evaluate` of all this, detections larger than their image counted."""
        scores = evaluate(self.predictions, self.truths, self.class_names, thresholds, pairs=self.pairs)
        return replace(scores, too_large=larger_than_image(self.predictions, self.sizes))


def _join(items: Iterable[tuple[Any, Any, Any]]) -> tuple[int, Ints, tuple[Floats, Floats, Floats]]:
    rows = [tuple(np.asarray(part, np.float64) for part in item) for item in items]
    images = np.repeat(np.arange(len(rows)), [len(row[1]) for row in rows])
    shapes = ((0, 4, 2), (0,), (0,))
    columns = [np.concatenate([np.zeros(shapes[k]), *(row[k].reshape(-1, *shapes[k][1:]) for row in rows)]) for k in range(3)]
    return len(rows), images.astype(np.int64), (columns[0], columns[1], columns[2])


def all_pairs(predictions: Predictions, truths: Truths) -> tuple[Ints, Ints, Floats]:
    """Overlapping (detection, object) rows of the same image, of any class, with their IoU."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    objects_of = _rows_per_image(truths.images)
    for image, detections in _rows_per_image(predictions.images).items():
        objects = objects_of.get(image, np.zeros(0, np.int64))
        i, j, iou = overlapping_polygons(predictions.corners[detections], truths.corners[objects])
        parts.append((detections[i], objects[j], iou))
    i, j, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return i, j, iou


def _rows_per_image(images: Ints) -> dict[int, Ints]:
    order = np.argsort(images, kind="stable")
    values, starts = np.unique(images[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=False))


def best_objects(predictions: Predictions, truths: Truths, pairs: tuple[Ints, Ints, Floats]) -> tuple[Floats, Ints]:
    """The greatest IoU of each detection with an object of its class and image, and that object's row; 0 and 0 for none.

    pairs: see `all_pairs`. Of equal IoUs the earlier object counts.
    """
    i, j, iou = pairs
    same = predictions.labels[i] == truths.labels[j]
    by_best = np.lexsort((j[same], -iou[same], i[same]))
    detections, first = np.unique(i[same][by_best], return_index=True)
    best_iou, best_object = np.zeros(len(predictions.scores)), np.zeros(len(predictions.scores), np.int64)
    best_iou[detections], best_object[detections] = iou[same][by_best][first], j[same][by_best][first]
    return best_iou, best_object


def hits_at(order: Ints, best_iou: Floats, best_object: Ints, difficult: NDArray[np.bool_], iou: float) -> NDArray[np.int8]:
    """1, 0, -1 `[N]` for each detection in the given order (by class, then falling score); see `ClassResult`."""
    hits = np.full(len(order), -1, np.int8)
    over = np.flatnonzero(best_iou[order] > iou)
    objects = best_object[order[over]]
    ignored = difficult[objects]
    hits[over[ignored]] = 0
    _, first = np.unique(objects[~ignored], return_index=True)
    hits[over[~ignored][first]] = 1
    return hits


def larger_than_image(predictions: Predictions, sizes: Floats) -> TooLarge | None:
    """How many detections have a side longer than the diagonal of their image; sizes `[K, 2]` as in `Evidence`.

    None where there are images, and the size of none is known.
    """
    known = np.isfinite(sizes[:, 0])
    if len(known) and not known.any():
        return None
    sides = np.linalg.norm(predictions.corners - np.roll(predictions.corners, -1, 1), axis=2).max(1, initial=0.0)
    diagonals = np.hypot(*np.where(known[:, None], sizes, np.inf).T)[predictions.images]
    return TooLarge(int((sides > diagonals).sum()), int(known[predictions.images].sum()), int(known.sum()))


def evaluate(
    predictions: Predictions,
    truths: Truths,
    class_names: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    confusion_score: float = 0.3,
    pairs: tuple[Ints, Ints, Floats] | None = None,
) -> Scores:
    """Average precision of every class at all thresholds in one pass, the confusion matrix, and how scores are calibrated.

    The protocol is DOTA's (see the module). The first threshold is the one of curves, confusion matrix and calibration. pairs: of
    `all_pairs`, where they are known. ValueError for labels outside class_names.
    """
    for rows in (predictions, truths):
        if len(rows.labels) and not (rows.labels.min() >= 0 and rows.labels.max() < len(class_names)):
            raise ValueError(f"labels {rows.labels.min()}..{rows.labels.max()} with {len(class_names)} class names")
    pairs = all_pairs(predictions, truths) if pairs is None else pairs
    best_iou, best_object = best_objects(predictions, truths, pairs)

    order = np.lexsort((-predictions.scores, predictions.labels))  # stable: ties keep the input order
    ends = np.searchsorted(predictions.labels[order], np.arange(1, len(class_names)))
    scores = np.split(predictions.scores[order], ends)
    npos = np.bincount(truths.labels[~truths.difficult], minlength=len(class_names))
    results = []
    hits_of = [hits_at(order, best_iou, best_object, truths.difficult, threshold) for threshold in thresholds]
    for hits in hits_of:
        rows_of = zip(class_names, npos.tolist(), np.split(hits, ends), scores, strict=False)  # a part of no class, too
        results.append(tuple(ClassResult(*row) for row in rows_of))
    matrix = confusion_matrix(predictions, truths, len(class_names), confusion_score, thresholds[0], pairs)
    names, levels = tuple(class_names), tuple(float(threshold) for threshold in thresholds)
    calibrated = calibration(predictions.scores[order], hits_of[0], levels[0])
    return Scores(names, truths.image_count, levels, tuple(results), matrix, levels[0], confusion_score, calibrated)


def confusion_matrix(
    predictions: Predictions,
    truths: Truths,
    classes: int,
    score: float,
    iou: float = 0.5,
    pairs: tuple[Ints, Ints, Floats] | None = None,
) -> Ints:
    """Counts `[classes + 1, classes + 1]`: rows the truth, columns the prediction, the last one background.

    Detections with at least this score, best first whatever their class, each take the free object they overlap most
    (IoU greater than the threshold). Difficult objects are no row, and a detection left with nothing else than them is
    no column.
    """
    i, j, value = all_pairs(predictions, truths) if pairs is None else pairs
    wanted = predictions.scores >= score
    close = (value > iou) & wanted[i]
    i, j, value = i[close], j[close], value[close]
    excused = np.zeros(len(wanted), bool)
    excused[i[truths.difficult[j]]] = True
    matched = np.full(len(truths.labels), -1, np.int64)
    used = np.zeros(len(wanted), bool)
    for k in np.lexsort((j, -value, i, -predictions.scores[i])).tolist():
        if not used[i[k]] and matched[j[k]] < 0 and not truths.difficult[j[k]]:
            matched[j[k]], used[i[k]] = i[k], True
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    counted = ~truths.difficult
    predicted = np.append(predictions.labels, classes)[matched]  # -1 picks the background
    np.add.at(matrix, (truths.labels[counted], predicted[counted]), 1)
    matrix[classes] += np.bincount(predictions.labels[wanted & ~used & ~excused], minlength=classes + 1)
    return matrix


def dota_map(detections_dir: str | Path, labels_dir: str | Path, iou: float = 0.5, problems: Problems | None = None) -> Scores:
    """Evaluate `Task1_<class>.txt` files against a folder of DOTA labels (whole images, merged detections).

    iou is evaluated beside 0.50, 0.55, ..., 0.95 and is the one of curves and confusion matrix. See `read_evidence` for what is
    read and what is raised.
    """
    if not 0 < iou < 1:
        raise UserError(f"IoU threshold {iou} found; expected a number between 0 and 1. 0.5 is DOTA's.")
    return read_evidence(detections_dir, labels_dir, problems).score(tuple(dict.fromkeys((iou, *THRESHOLDS))))


def read_evidence(detections_dir: str | Path, labels_dir: str | Path, problems: Problems | None = None) -> Evidence:
    """Read `Task1_<class>.txt` files and a folder of DOTA labels, or a DOTA folder whose images then are known, too.

    The images are the label files, the classes those of the file names and the labels. Invalid lines, and detections on images
    without label, go to problems; UserError for a missing or empty folder, or where not one detection lies on a labelled image.
    """
    problems = Problems() if problems is None else problems
    paths = _label_files(Path(labels_dir), problems)
    images = images_beside(paths[0].parent)
    objects = [read_objects(path, problems, image=images.get(path.stem)) for path in paths]
    lines = read_task1(detections_dir, problems)
    names = tuple(sorted({*lines, *(name for item in objects for name in item.names)}))
    label_of = {name: k for k, name in enumerate(names)}
    image_of = {path.stem: k for k, path in enumerate(paths)}
    rows: list[tuple[int, Any, float, int]] = []
    unknown: dict[str, Path] = {}
    for name, of_class in lines.items():
        for line in of_class:
            if line.stem in image_of:
                rows.append((image_of[line.stem], line.corners, line.score, label_of[name]))
            else:
                unknown.setdefault(line.stem, Path(detections_dir) / f"Task1_{name}.txt")
    _report_unknown(unknown, paths[0].parent, len(rows), problems)
    truths = Truths.of_images((o.corners, [label_of[n] for n in o.names], o.difficult) for o in objects)
    predictions = Predictions(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float64).reshape(-1, 4, 2),
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.int64),
    )
    files = tuple(images.get(path.stem) for path in paths)
    sizes = np.array([_known_size(file) for file in files], np.float64).reshape(-1, 2)
    return Evidence(names, predictions, truths, tuple(path.stem for path in paths), files, sizes)


def _known_size(image: Path | None) -> tuple[float, float]:
    """Width and height of an image by its header; NaN without one."""
    if image is not None:
        with suppress(OSError), image.open("rb") as file:
            return header_size(file) or (np.nan, np.nan)
    return np.nan, np.nan


def _label_files(folder: Path, problems: Problems) -> list[Path]:
    folder = folder / "labelTxt" if (folder / "labelTxt").is_dir() else folder
    if not any(path.suffix.lower() in LABEL_SUFFIXES for path in folder.glob("[!.]*")):
        found = "no .txt file" if folder.is_dir() else "no such folder"
        advice = "Give the folder that holds labelTxt/*.txt."
        raise UserError(explain(folder, found, "a folder of DOTA label files", advice))
    return list(list_labels(folder, problems).values())


def _report_unknown(unknown: dict[str, Path], folder: Path, known: int, problems: Problems) -> None:
    """One problem per image name without label; an error where no name fits at all (a mean of 0 would mislead)."""
    for stem, path in unknown.items():
        found, expected = f"detections on '{stem}'", f"the name of a label file in {folder}"
        advice = "This names a tile: merge the tiles first." if parse_tile_name(stem) else "Check both folders."
        if not known:
            raise UserError(explain(path, found, expected, f"{advice} No other detection has a label either."))
        problems.add(path, found, expected, advice)
