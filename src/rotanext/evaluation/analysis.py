"""Where a detector is good and where it fails: average precision by size and shape, angle errors, worst cases.

Pure functions on an evaluation's evidence. Detections and objects are matched as the DOTA protocol does (see metrics.py), at one
IoU threshold; rectangles of least area around the labelled quadrilaterals give sizes, aspect ratios and angles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rotanext.evaluation.metrics import Evidence, best_objects, hits_at
from rotanext.evaluation.scores import ClassResult, Floats, Ints
from rotanext.polygons import corners_to_boxes

Mask = NDArray[np.bool_]
Reason = Literal["duplicate", "wrong class", "badly placed", "nothing there"]

REASONS: tuple[Reason, ...] = ("nothing there", "wrong class", "badly placed", "duplicate")
SIZES = (16.0, 32.0, 96.0)  # pixels, square root of the area; COCO's limits, its smallest class parted once more
ASPECTS = (1.5, 3.0, 6.0)  # long edge over short edge
LEAST_ASPECT = 1.2  # what is nearly square has no direction worth an angle error
LEAST_OVERLAP = 0.1  # IoU from which a false positive counts as badly placed rather than as nothing there


@dataclass(frozen=True, eq=False)
class Matching:
    """Which object each detection stands for, at the IoU threshold `iou`.

    best_iou, best_object `[N]`: see `metrics.best_objects`; other_iou, other_object `[N]` the same among objects of other classes;
    order `[N]` detections by class, then falling score; hits `[N]` in that order: 1 true positive, -1 false positive, 0 ignored.
    boxes `[N, 5]` and truth_boxes `[M, 5]`: the rectangles (le90).
    """

    evidence: Evidence
    iou: float
    best_iou: Floats
    best_object: Ints
    other_iou: Floats
    other_object: Ints
    order: Ints
    hits: NDArray[np.int8]
    boxes: Floats
    truth_boxes: Floats

    @cached_property
    def outcome(self) -> NDArray[np.int8]:
        """`hits` `[N]` in the order of the detections."""
        outcome = np.zeros(len(self.order), np.int8)
        outcome[self.order] = self.hits
        return outcome

    @cached_property
    def finder(self) -> Ints:
        """The row of the detection that found each object `[M]`; -1 for none."""
        finder = np.full(len(self.truth_boxes), -1, np.int64)
        found = np.flatnonzero(self.outcome > 0)
        finder[self.best_object[found]] = found
        return finder

    def of_object(self, values: Floats, own: Floats) -> Floats:
        """For each detection `[N]` the value `[M]` of the object it overlaps by more than the threshold, else its own `[N]`."""
        return np.where(self.best_iou > self.iou, np.append(values, 0.0)[self.best_object], own)


def match(evidence: Evidence, iou: float = 0.5) -> Matching:
    """Match detections with objects by the DOTA protocol at one IoU threshold."""
    predictions, truths = evidence.predictions, evidence.truths
    pairs = evidence.pairs
    best_iou, best_object = best_objects(predictions, truths, pairs)
    other = predictions.labels[pairs[0]] != truths.labels[pairs[1]]
    i, j, value = (column[other] for column in pairs)
    by_best = np.lexsort((j, -value, i))
    rows, first = np.unique(i[by_best], return_index=True)
    other_iou, other_object = np.zeros(len(best_iou)), np.zeros(len(best_iou), np.int64)
    other_iou[rows], other_object[rows] = value[by_best][first], j[by_best][first]
    order = np.lexsort((-predictions.scores, predictions.labels))
    hits = hits_at(order, best_iou, best_object, truths.difficult, iou)
    boxes, truth_boxes = corners_to_boxes(predictions.corners), corners_to_boxes(truths.corners)
    return Matching(evidence, iou, best_iou, best_object, other_iou, other_object, order, hits, boxes, truth_boxes)


def side(boxes: Floats) -> Floats:
    """The square root of the area `[N]`, in pixels, of boxes `[N, 5]`."""
    return np.sqrt(boxes[:, 2] * boxes[:, 3])


def aspect(boxes: Floats) -> Floats:
    """Long edge over short edge `[N]` of boxes `[N, 5]`; infinite for one without height."""
    return boxes[:, 2] / np.maximum(boxes[:, 3], 1e-12)


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of an evaluation that concerns objects with some property in [low, high).

    results: one `ClassResult` per class at the matching's threshold, and strict_results the same at a second one.
    """

    low: float
    high: float
    results: tuple[ClassResult, ...]
    strict_results: tuple[ClassResult, ...]

    @property
    def npos(self) -> int:
        """Objects that count."""
        return sum(result.npos for result in self.results)

    @property
    def ndet(self) -> int:
        """Detections that stand for such objects, or look like them."""
        return sum(result.ndet for result in self.results)

    @property
    def recall(self) -> float | None:
        """Share of the objects that were found at any score; None without objects."""
        return sum(result.tp for result in self.results) / self.npos if self.npos else None

    @property
    def ap(self) -> float | None:
        """Mean average precision (area) over the classes with such objects; None without any."""
        return _mean_ap(self.results)

    @property
    def strict_ap(self) -> float | None:
        """The same at the stricter threshold."""
        return _mean_ap(self.strict_results)


def _mean_ap(results: Sequence[ClassResult]) -> float | None:
    values = [result.ap_area for result in results if result.npos]
    return float(np.mean(values)) if values else None


def slices(matching: Matching, strict: Matching, property_of: str, limits: Sequence[float]) -> tuple[Slice, ...]:
    """The evaluation by a property of the objects, "size" (see `side`) or "aspect", cut at the limits (ascending).

    A detection belongs where the object lies that it overlaps by more than the threshold, and by its own box where there is none:
    every object and every detection is in exactly one slice, true positives with their objects.
    """
    measure = {"size": side, "aspect": aspect}[property_of]
    edges = (0.0, *limits, np.inf)
    parts = [_sliced(each, measure(each.boxes), measure(each.truth_boxes), limits) for each in (matching, strict)]
    return tuple(Slice(edges[k], edges[k + 1], parts[0][k], parts[1][k]) for k in range(len(edges) - 1))


def _sliced(matching: Matching, own: Floats, values: Floats, limits: Sequence[float]) -> list[tuple[ClassResult, ...]]:
    evidence, order = matching.evidence, matching.order
    bins = np.searchsorted(np.asarray(limits), matching.of_object(values, own), side="right")[order]
    truth_bins = np.searchsorted(np.asarray(limits), values, side="right")
    labels, scores = evidence.predictions.labels[order], evidence.predictions.scores[order]
    counted = ~evidence.truths.difficult
    result = []
    for k in range(len(limits) + 1):
        row = []
        for label, name in enumerate(evidence.class_names):
            chosen = (bins == k) & (labels == label)
            npos = int((counted & (truth_bins == k) & (evidence.truths.labels == label)).sum())
            row.append(ClassResult(name, npos, matching.hits[chosen], scores[chosen]))
        result.append(tuple(row))
    return result


@dataclass(frozen=True, eq=False)
class AngleErrors:
    """How far the directions of true positives are off.

    rows `[T]` the detections (rows of predictions), objects `[T]` their objects (rows of truths), degrees `[T]` in [-90, 90):
    detection minus object, modulo 180, positive clockwise on the screen; aspects `[T]` of the objects.
    """

    rows: Ints
    objects: Ints
    degrees: Floats
    aspects: Floats

    @property
    def elongated(self) -> Mask:
        """Which objects `[T]` have a direction worth the name (aspect of at least LEAST_ASPECT)."""
        return self.aspects >= LEAST_ASPECT

    def summary(self, chosen: Mask) -> dict[str, float] | None:
        """count, median and 90th percentile of the absolute error, bias (median of the signed one), share beyond 10 degrees."""
        degrees = self.degrees[chosen]
        if not len(degrees):
            return None
        size = np.abs(degrees)
        median, high = np.quantile(size, [0.5, 0.9]).tolist()
        bias, beyond = float(np.median(degrees)), float((size > 10).mean())
        return {"count": len(degrees), "median": median, "p90": high, "bias": bias, "beyond10": beyond}


def angle_errors(matching: Matching) -> AngleErrors:
    """Angle errors of all true positives."""
    rows = np.flatnonzero(matching.outcome > 0)
    objects = matching.best_object[rows]
    difference = np.degrees(matching.boxes[rows, 4] - matching.truth_boxes[objects, 4])
    return AngleErrors(rows, objects, (difference + 90) % 180 - 90, aspect(matching.truth_boxes[objects]))


def reasons(matching: Matching) -> NDArray[np.int64]:
    """Why each detection `[N]` is no true positive: an index into REASONS, -1 for one that is no false positive.

    In this order: a second detection of an object that a better one has found; over an object of another class (IoU above the
    threshold); over one of its own class, but too little (IoU of at least LEAST_OVERLAP); nothing there.
    """
    result = np.full(len(matching.outcome), REASONS.index("nothing there"))
    result[matching.best_iou >= LEAST_OVERLAP] = REASONS.index("badly placed")
    result[matching.other_iou > matching.iou] = REASONS.index("wrong class")
    result[matching.best_iou > matching.iou] = REASONS.index("duplicate")
    result[matching.outcome >= 0] = -1
    return result


def worst_false_positives(matching: Matching, count: int) -> Ints:
    """Rows of the false positives with the highest scores, at most count; ties by row. See `spread`."""
    wrong = np.flatnonzero(matching.outcome < 0)
    predictions = matching.evidence.predictions
    wrong = wrong[np.argsort(-predictions.scores[wrong], kind="stable")]
    return wrong[spread(predictions.labels[wrong], count)]


def worst_misses(matching: Matching, count: int, score: float) -> Ints:
    """Rows of the objects that no detection of at least that score found, at most count.

    First those found by nothing, then those by the lowest scores; among equals the largest. Difficult objects are no misses. See
    `spread`.
    """
    finder, scores = matching.finder, np.append(matching.evidence.predictions.scores, 0.0)
    reached = scores[finder]  # -1 picks the 0
    missed = np.flatnonzero(~matching.evidence.truths.difficult & (reached < score))
    missed = missed[np.lexsort((missed, -side(matching.truth_boxes[missed]), reached[missed]))]
    return missed[spread(matching.evidence.truths.labels[missed], count)]


def spread(labels: Ints, count: int) -> Ints:
    """Places of the first `count` rows in an order, a third of them at most of one class as long as there are others.

    Otherwise one class that fails often would be all there is to be seen.
    """
    most, taken = max(1, count // 3), dict[int, int]()
    first: list[int] = []
    rest: list[int] = []
    for place, label in enumerate(labels.tolist()):
        taken[label] = taken.get(label, 0) + 1
        (first if taken[label] <= most else rest).append(place)
    return np.array(sorted([*first[:count], *rest[: max(0, count - len(first))]]), np.int64)


def worst_angles(errors: AngleErrors, scores: Floats, count: int, score: float) -> Ints:
    """Indices into errors of the true positives of at least that score that are turned most; of elongated objects alone."""
    chosen = np.flatnonzero(errors.elongated & (scores[errors.rows] >= score))
    return chosen[np.argsort(-np.abs(errors.degrees[chosen]), kind="stable")][:count]
