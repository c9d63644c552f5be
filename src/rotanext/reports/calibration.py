"""Charts of how far scores can be taken for probabilities."""

import numpy as np

from rotanext.evaluation.calibration import Calibration
from rotanext.reports.charts import Axis, Bars, Chart, Line, percent, shown
from rotanext.reports.colours import BAD, GOOD


def reliability_chart(of: Calibration) -> Chart:
    """What scores promise and what comes true: the share of true positives in each step, and what parts it from the mean score."""
    kept = np.fmin(of.precision, of.mean_score)  # what both have; NaN in empty steps
    gap = np.abs(of.precision - of.mean_score)
    boasting = of.mean_score > of.precision
    spans = _spans(of)
    titles = [
        f"{span}: {shown(float(p))} % of {n:,} are true positives, mean score {shown(float(c))} %"
        for span, p, c, n in zip(spans, of.precision, of.mean_score, of.counts.tolist(), strict=True)
    ]
    error = "" if of.error is None else f"Expected calibration error: {shown(of.error)} %."
    kinds = (
        (kept, "0", "true, as the score promises"),
        (np.where(boasting, gap, np.nan), BAD, "promised, but false"),
        (np.where(boasting, np.nan, gap), "2", "true, though not promised"),
    )
    return Chart(
        "Reliability of the scores",
        f"Share of true positives over the score. {error}",
        Axis(0, 1, "Score"),
        Axis(0, 1, "Share of true positives", percent),
        [Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "ink", "the share equals the score", style="dashed")],
        [Bars(values.tolist(), colour, titles, key) for values, colour, key in kinds],
        stacked=True,
        note=f"Where scores are probabilities, true ones are as many as promised. {error}",
        empty="There are no detections.",
    )


def counts_chart(of: Calibration) -> Chart:
    """How many detections each step has, and which of them are true positives."""
    kinds = (("true positives", GOOD, of.right), ("false positives", BAD, of.wrong))
    return Chart(
        "True and false positives",
        f"Detections by score: {int(of.right.sum()):,} true and {int(of.wrong.sum()):,} false positives.",
        Axis(0, 1, "Score"),
        Axis(0, 1.05 * max(1.0, float(of.counts.max(initial=0))), "Detections", whole=True),
        bars=[
            Bars(values.tolist(), colour, [f"{s}: {n:,} {kind}" for s, n in zip(_spans(of), values, strict=True)], kind)
            for kind, colour, values in kinds
        ],
        stacked=True,
    )


def _spans(of: Calibration) -> list[str]:
    """The steps of the score in words."""
    return [f"score {low:.2f} to {high:.2f}" for low, high in zip(of.edges[:-1], of.edges[1:], strict=True)]
