"""The curves of a training run, from the rows of its `metrics.jsonl`: a section of the page, and `curves.png`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rotanext.reports.charts import Axis, Chart, Floats, Line, percent, smoothed, write_charts
from rotanext.reports.html import figure, pair, paragraph

Rows = Sequence[Mapping[str, Any]]


def plot_training(rows: Rows, path: str | Path) -> None:
    """Write a run's curves as one PNG image; see `training_charts`."""
    write_charts(training_charts(rows), path, columns=2)


def training_section(rows: Rows) -> str:
    """The run's curves for a page; see `training_charts`."""
    skipped = max((float(row.get("skipped") or 0) for row in rows), default=0.0)
    note = paragraph(f"{skipped:.0f} steps were skipped because loss or gradient was not finite.") if skipped else ""
    return note + pair(*map(figure, training_charts(rows)))


def training_charts(rows: Rows) -> list[Chart]:
    """Losses, validation, learning rate and gradient norm over the steps.

    Training rows hold step, loss, its terms (loss_..., named by the head), lr and grad_norm; validation rows step, map50, map75,
    map50_95 (in [0, 1]).
    Missing keys, undefined values (null, NaN) and rows without a step are left out.
    """
    last = max((float(row["step"]) for row in rows if row.get("step") is not None), default=1.0)
    steps = Axis(0, max(last, 1.0), "Step", whole=True)
    terms = dict.fromkeys(key for row in rows for key in row if key.startswith("loss_"))
    named = {key: (key.removeprefix("loss_"), str(number % 10)) for number, key in enumerate(terms)}
    return [
        _noisy("Loss", rows, steps, {"loss": ("total", "ink"), **named}),
        _validation(rows, steps),
        _noisy("Learning rate", rows, steps, {"lr": ("learning rate", "2")}, smooth=False),
        _noisy("Gradient norm, before clipping", rows, steps, {"grad_norm": ("gradient norm", "4")}),
    ]


def _series(rows: Rows, key: str) -> tuple[Floats, Floats]:
    """Steps and finite values of the rows that hold this key."""
    found = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None and row.get("step") is not None]
    points = np.array(found, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    return points[:, 0], points[:, 1]


def _noisy(heading: str, rows: Rows, steps: Axis, named: Mapping[str, tuple[str, str]], smooth: bool = True) -> Chart:
    """Raw values faint, their moving average on top; the axis ends above nearly all values, whatever the spikes."""
    faint: list[Line] = []
    lines: list[Line] = []
    top = 0.0
    for key, (name, colour) in named.items():
        x, y = _series(rows, key)
        if not len(x):
            continue
        top = max(top, float(np.quantile(y, 0.99)))
        shown = smoothed(y) if smooth else y
        faint += [Line(x, y, colour, name, style="faint")] * smooth
        lines.append(Line(x, shown, colour, name, f"{name}, last {y[-1]:.3g}"))
    said = f"{heading} over the steps: " + ", ".join(line.key for line in lines)
    return Chart(heading, said, steps, Axis(0, 1.1 * top or 1.0), [*faint, *lines])


def _validation(rows: Rows, steps: Axis) -> Chart:
    lines = []
    for colour, (key, name) in enumerate({"map50": "mAP50", "map75": "mAP75", "map50_95": "mAP50:95"}.items()):
        x, y = _series(rows, key)
        if len(x):
            lines.append(Line(x, y, str(colour), name, f"{name}, last {100 * y[-1]:.1f} %", dots="all"))
    said = "Validation over the steps: " + ", ".join(line.key for line in lines)
    return Chart("Validation", said, steps, Axis(0, 1, "", percent), lines, empty="There was no validation.")
