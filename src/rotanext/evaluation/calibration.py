"""How far scores can be taken for probabilities: what they promise and what comes true, in equal steps of the score.

Of n detections, n_m have a score in step m; c_m is their mean score, p_m the share of them that is right. Then the expected
calibration error is

    ECE = sum over m of n_m / n * |p_m - c_m|

0 where scores are probabilities. The formula is that of Guo et al. 2017 (arXiv:1706.04599) for classification; Küppers et al. 2020
(arXiv:2004.13546) take it to detection, where a share of right ones is the precision at an IoU threshold. They also part detections
by place and size; here the score alone counts. Objects that no detection stands for have no score: they do not count.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 15  # as in both papers' main figures

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Detections by score, in M equal steps from 0 to 1; a step ends with its upper edge, as Guo's do.

    iou: above which a detection is right, if no better one has taken its object. right, wrong `[M]` counts (on difficult objects:
    neither), mean_score `[M]` (NaN where there are none).
    """

    iou: float
    right: Ints
    wrong: Ints
    mean_score: Floats

    @property
    def steps(self) -> int:
        """M."""
        return len(self.right)

    @property
    def edges(self) -> Floats:
        """Where steps begin and end, `[M + 1]`."""
        return np.linspace(0, 1, self.steps + 1)

    @property
    def counts(self) -> Ints:
        """Detections of each step `[M]`."""
        return self.right + self.wrong

    @property
    def precision(self) -> Floats:
        """Share of right ones in each step `[M]`; NaN where there are no detections."""
        return np.where(self.counts > 0, self.right / np.maximum(self.counts, 1), np.nan)

    @property
    def error(self) -> float | None:
        """The expected calibration error, from 0 to 1; None without detections."""
        counts = self.counts
        if not counts.sum():
            return None
        return float(np.nansum(counts * np.abs(self.precision - self.mean_score)) / counts.sum())

    def to_json(self) -> dict[str, Any]:
        """Plain data, null where undefined."""
        means = [None if np.isnan(value) else value for value in self.mean_score.tolist()]
        return {
            "ece": self.error,
            "iou": self.iou,
            "score_edges": np.round(self.edges, 6).tolist(),
            "detections": self.counts.tolist(),
            "right": self.right.tolist(),
            "mean_score": means,
        }


def calibration(scores: Floats, hits: NDArray[np.int8], iou: float, steps: int = STEPS) -> Calibration:
    """Of detections with scores `[N]` from 0 to 1, and hits `[N]`: 1 right, -1 wrong, 0 left out, at the IoU threshold `iou`."""
    counted = hits != 0
    at = np.clip(np.ceil(scores * steps).astype(np.int64) - 1, 0, steps - 1)
    right, wrong = (np.bincount(at[hits == kind], minlength=steps) for kind in (1, -1))
    sums = np.bincount(at[counted], weights=scores[counted], minlength=steps)
    total = right + wrong
    return Calibration(iou, right, wrong, np.where(total > 0, sums / np.maximum(total, 1), np.nan))
