"""`rotanext eval`: which evaluation options ask for, and running it."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rotanext.errors import Problems, UserError
from rotanext.evaluation.evaluate import Evaluation, evaluate_files, evaluate_weights
from rotanext.inference.detector import Detector


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated: a detector's weights, or a folder of Task1 files, of tiles where `merge` is an IoU."""

    data: Path
    out: Path
    weights: Path | None = None
    detections: Path | None = None
    merge: float | None = None
    batch_size: int = 1

    def about(self) -> dict[str, object]:
        """What the page says was evaluated."""
        what = "Weights" if self.detections is None else "Detections"
        return {what: self.detections or self.weights, "Data": self.data}


def check_options(options: EvaluateOptions) -> None:
    """Raise UserError for options that do not go together, before any work."""
    if (options.weights is None) == (options.detections is None):
        raise UserError("give either --weights (a detector) or --detections (a folder of Task1_*.txt)")
    if options.weights is not None and options.merge is not None:
        raise UserError("--merge belongs to --detections; a detector merges its tiles itself")


def evaluate(detector: Detector | None, options: EvaluateOptions, problems: Problems, console: Console) -> Evaluation:
    """Evaluate the detector of `options.weights`, or (None) the files that the options name; raises UserError like both."""
    check_options(options)
    if options.detections is not None:
        return evaluate_files(options.detections, options.data, options.out, options.merge, problems)
    assert detector is not None
    return evaluate_weights(detector, options.data, options.out, options.batch_size, problems, console)
