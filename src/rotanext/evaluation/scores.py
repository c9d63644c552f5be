"""What an evaluation found: average precision per class and threshold, means, curves; as JSON and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from rotanext.errors import counted
from rotanext.evaluation.calibration import Calibration, Floats, Ints

Kind = Literal["area", "voc07"]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
BACKGROUND = "background"


def average_precision(recall: Floats, precision: Floats, kind: Kind) -> float:
    """Area under the monotone precision-recall curve (VOC 2010 on), or the mean over eleven recalls ("voc07").

    recall and precision `[K]` along falling scores; 0 for K = 0.
    """
    if kind == "voc07":
        # arange's rounding (0.3 becomes 0.30000000000000004) is DOTA_devkit's, whose figures people compare with.
        reached = (precision[recall >= level].max(initial=0.0) for level in np.arange(0.0, 1.1, 0.1))
        return float(sum(value / 11 for value in reached))
    if kind != "area":
        raise ValueError(f"kind is {kind!r}; expected 'area' or 'voc07'")
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


@dataclass(frozen=True, eq=False)
class ClassResult:
    """One class at one IoU threshold.

    npos: objects that count (not difficult). hits `[ndet]` along falling scores: 1 true positive, -1 false positive, 0
    ignored.
    """

    name: str
    npos: int
    hits: NDArray[np.int8]
    scores: Floats

    @property
    def ndet(self) -> int:
        """Detections, ignored ones included."""
        return len(self.hits)

    @property
    def tp(self) -> int:
        """True positives."""
        return int((self.hits > 0).sum())

    @property
    def fp(self) -> int:
        """False positives."""
        return int((self.hits < 0).sum())

    @property
    def recall(self) -> Floats:
        """Recall `[ndet]` after each detection; 0 for a class without objects."""
        return np.cumsum(self.hits > 0) / max(self.npos, 1)

    @property
    def precision(self) -> Floats:
        """Precision `[ndet]` after each detection; 0 until the first one that counts."""
        return np.cumsum(self.hits > 0) / np.maximum(np.cumsum(self.hits != 0), 1)

    @cached_property
    def ap_area(self) -> float:
        """Average precision as the area under the curve, in [0, 1]; 0 for a class without objects."""
        return average_precision(self.recall, self.precision, "area")

    @cached_property
    def ap_voc07(self) -> float:
        """Average precision over eleven recalls, in [0, 1]; 0 for a class without objects."""
        return average_precision(self.recall, self.precision, "voc07")

    def ap(self, kind: Kind) -> float:
        """The average precision of that kind."""
        return self.ap_voc07 if kind == "voc07" else self.ap_area

    def best_f1(self) -> dict[str, float] | None:
        """Precision, recall, F1 and the score threshold where F1 is greatest; None without a true positive."""
        if not self.npos or not self.tp:
            return None
        precision, recall = self.precision, self.recall
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        # A threshold cannot separate equal scores: only the last of each run is an operating point.
        f1[:-1][self.scores[1:] == self.scores[:-1]] = -1.0
        best = int(f1.argmax())
        values = {"precision": precision, "recall": recall, "f1": f1, "score": self.scores}
        return {key: float(value[best]) for key, value in values.items()}


class TooLarge(NamedTuple):
    """Detections with a side longer than the diagonal of their image, of all `detections` on the `images` whose size is known."""

    larger: int
    detections: int
    images: int


@dataclass(frozen=True, eq=False)
class Scores:
    """The outcome of `evaluate`: per threshold one `ClassResult` per class, the confusion matrix, and the calibration.

    confusion `[C + 1, C + 1]` counts: rows the truth, columns the prediction, the last one background (missed, or
    nothing there); at IoU confusion_iou among detections with a score of at least confusion_score. too_large: None where sizes of
    images are not known.
    """

    class_names: tuple[str, ...]
    images: int
    thresholds: tuple[float, ...]
    results: tuple[tuple[ClassResult, ...], ...]
    confusion: Ints
    confusion_iou: float
    confusion_score: float
    calibration: Calibration
    too_large: TooLarge | None = None

    def at(self, iou: float = 0.5) -> tuple[ClassResult, ...]:
        """The results of all classes at one of the evaluated thresholds; ValueError for another one."""
        for threshold, result in zip(self.thresholds, self.results, strict=True):
            if abs(threshold - iou) < 1e-9:
                return result
        raise ValueError(f"IoU threshold {iou} was not evaluated; expected one of {self.thresholds}")

    def map(self, iou: float = 0.5, kind: Kind = "area") -> float | None:
        """Mean average precision in [0, 1] over the classes with objects; None where no class has any."""
        values = [result.ap(kind) for result in self.at(iou) if result.npos]
        return float(np.mean(values)) if values else None

    def map50_95(self, kind: Kind = "area") -> float | None:
        """Mean of `map` over 0.50, 0.55, ..., 0.95; None without objects or where these were not all evaluated."""
        if not all(self._has(iou) for iou in THRESHOLDS):
            return None
        values = [self.map(iou, kind) for iou in THRESHOLDS]
        return None if None in values else float(np.mean([value for value in values if value is not None]))

    def summary(self, kind: Kind = "area") -> dict[str, float | None]:
        """`{"map50", "map75", "map50_95"}` in [0, 1], None where undefined or not evaluated."""
        named = {name: self.map(iou, kind) if self._has(iou) else None for name, iou in (("map50", 0.5), ("map75", 0.75))}
        return named | {"map50_95": self.map50_95(kind)}

    def _has(self, iou: float) -> bool:
        return any(abs(threshold - iou) < 1e-9 for threshold in self.thresholds)

    def to_json(self) -> dict[str, Any]:
        """Plain data without NaN (null where undefined): means, classes per threshold, curves, confusion matrix."""
        levels = np.round(np.linspace(0, 1, 101), 2)
        return {
            "protocol": "DOTA task 1, true polygon IoU; ap_area: area under the curve, ap_voc07: eleven recalls",
            "images": self.images,
            "mean": {"area": self.summary("area"), "voc07": self.summary("voc07")},
            "iou": {f"{iou:g}": self._threshold_json(iou) for iou in self.thresholds},
            "curves": {
                "iou": self.thresholds[0],
                "recall": levels.tolist(),
                "precision": {r.name: curve(r, levels).tolist() for r in self.results[0] if r.npos},
            },
            "confusion": {
                "iou": self.confusion_iou,
                "score": self.confusion_score,
                "names": [*self.class_names, BACKGROUND],
                "rows_truth_columns_prediction": self.confusion.tolist(),
            },
            "calibration": self.calibration.to_json(),
            "larger_than_image": None if self.too_large is None else self.too_large._asdict(),
        }

    def remarks(self) -> list[str]:
        """What there is to say besides the table, in sentences: whether scores are probabilities, and boxes that cannot be."""
        said = []
        of = self.calibration
        if of.error is not None:
            said.append(f"Expected calibration error: {_percent(of.error)} % ({of.steps} steps of the score, IoU {of.iou:g}).")
        if self.too_large is not None:
            larger, detections, images = self.too_large
            some = "" if images == self.images else f" (counted on the {images} of {self.images} images whose size is known)"
            many = f"{larger:,} of {counted(detections, 'detection')}" if larger else "No detection"
            said.append(f"{many} {'is' if larger < 2 else 'are'} longer than the diagonal of the image{some}.")
        return said

    def _threshold_json(self, iou: float) -> dict[str, Any]:
        classes = {
            r.name: {
                **{
                    "npos": r.npos,
                    "ndet": r.ndet,
                    "tp": r.tp,
                    "fp": r.fp,
                    "ap_voc07": r.ap_voc07,
                    "ap_area": r.ap_area,
                },
                "best_f1": r.best_f1(),
            }
            for r in self.at(iou)
        }
        means = {"map_voc07": self.map(iou, "voc07"), "map_area": self.map(iou, "area")}
        return {"classes": classes, **means, "classes_with_ground_truth": sum(r.npos > 0 for r in self.at(iou))}

    def table(self, kind: Kind = "area") -> Table:
        """One row per class and the mean: objects, detections, AP in percent, precision and recall where F1 is best."""
        main = self.thresholds[0]
        how = {"area": "area under the curve", "voc07": "VOC07, eleven recalls"}[kind]
        other: Kind = "voc07" if kind == "area" else "area"
        headings = ("mAP50", "mAP75", "mAP50:95")
        pairs = zip(headings, self.summary(other).values(), strict=True)
        means = ", ".join(f"{heading} {_percent(value)}" for heading, value in pairs)
        names = {"area": "area", "voc07": "VOC07"}
        caption = (
            f"AP in percent: {how} ({names[other]}: {means}). "
            f"P, R: precision and recall at the score with the best F1, IoU {main:g}."
        )
        table = Table(title=f"{self.images} images, true polygon IoU", caption=caption, title_justify="left")
        table.add_column("class")
        for heading in ("objects", "dets", "AP50", "AP75", "AP50:95", "P", "R", "score"):
            table.add_column(heading, justify="right")
        for k, r in enumerate(self.at(main)):
            best = r.best_f1() or {}
            aps = [self._class_ap(k, ious, kind) if r.npos else None for ious in ((0.5,), (0.75,), THRESHOLDS)]
            cells = [_percent(value) for value in (*aps, best.get("precision"), best.get("recall"))]
            score = f"{best['score']:.2f}" if best else "–"
            table.add_row(r.name, str(r.npos), str(r.ndet), *cells, score, end_section=k == len(self.class_names) - 1)
        totals = [str(sum(getattr(r, key) for r in self.at(main))) for key in ("npos", "ndet")]
        table.add_row("mean", *totals, *map(_percent, self.summary(kind).values()), style="bold")
        return table

    def _class_ap(self, k: int, ious: Sequence[float], kind: Kind) -> float | None:
        if not all(self._has(iou) for iou in ious):
            return None
        return float(np.mean([self.at(iou)[k].ap(kind) for iou in ious]))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def curve(result: ClassResult, levels: Floats) -> Floats:
    """Interpolated precision (greatest at this or a higher recall) at recalls `[K]`; 0 beyond the last one reached."""
    envelope = np.append(np.maximum.accumulate(result.precision[::-1])[::-1], 0.0)
    return envelope[np.searchsorted(result.recall, levels - 1e-12)]
