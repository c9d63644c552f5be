"""One self-contained HTML page about a training or an evaluation: figures, curves, failures as images, configuration, machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rotanext.errors import counted
from rotanext.evaluation.analysis import angle_errors, match
from rotanext.evaluation.metrics import Evidence, Scores
from rotanext.reports.evaluation import Section, evaluation_sections, shown
from rotanext.reports.html import cards, facts, figure, paragraph, table, whole_page
from rotanext.reports.svg import Axis, Line, line_chart, number, percent
from rotanext.system.files import write_atomically

Floats = np.ndarray
_NOTES = {"map50": "at IoU 0.5", "map75": "at IoU 0.75", "map50_95": "mean over the IoUs from 0.5 to 0.95"}
_SMOOTH = 25  # the moving average is over one part in so many


@dataclass(frozen=True, eq=False)
class Contents:
    """What a page is about; parts that are not there make no section.

    rows: of metrics.jsonl, see `plots.plot_training`. about: what was trained or evaluated, by name. speed: figures by name, such
    as "images/s". config: every key with its value. environment: see `provenance.provenance`.
    """

    title: str
    about: Mapping[str, object]
    scores: Scores | None = None
    evidence: Evidence | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    speed: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def write_report(contents: Contents, path: str | Path) -> None:
    """Write the page, whole or not at all; raises UserError where it cannot be written.

    Names of classes, files and settings are text in it, whatever they hold. Of the images only the worst cases' crops are kept,
    one image being in memory at a time.
    """
    html = html_report(contents)
    # a file name may hold bytes that are no text
    write_atomically(Path(path), lambda part: part.write_text(html, encoding="utf-8", errors="replace"))


def html_report(contents: Contents) -> str:
    """The page as text; see `write_html_report`."""
    return whole_page(contents.title, _head(contents), _sections(contents), _foot())


def _head(contents: Contents) -> str:
    when = contents.environment.get("date", "")
    made = " · ".join(text for text in (when, f"rotanext {contents.environment.get('rotanext', '')}".strip()) if text)
    about = "; ".join(f"{name} {value}" for name, value in contents.about.items())
    title = f"<h1>{escape(contents.title)}</h1>"
    return title + paragraph(about) + paragraph(made, muted=True) + cards(_headline(contents))


def _headline(contents: Contents) -> Iterator[tuple[str, str, str]]:
    scores = contents.scores
    if scores is not None:
        names = {"map50": "mAP50", "map75": "mAP75", "map50_95": "mAP50:95"}
        for key, value in scores.summary().items():
            yield names[key], f"{shown(value)} %", _NOTES[key]
        main = scores.at(scores.thresholds[0])
        yield (
            "Objects",
            f"{sum(r.npos for r in main):,}",
            f"in {counted(scores.images, 'image')}, {counted(len(scores.class_names), 'class')}",
        )
        counts = scores.confusion
        seen, missed = int(counts[:-1].sum()), int(counts[:-1, -1].sum())
        if seen:
            yield "Found", f"{shown(1 - missed / seen)} %", f"of the objects, at score ≥ {scores.confusion_score:g}, as any class"
    if contents.evidence is not None:
        errors = angle_errors(match(contents.evidence, scores.thresholds[0] if scores else 0.5))
        if found := errors.summary(errors.elongated):
            yield "Angle error", f"{found['median']:.1f}°", f"median; 9 in 10 below {found['p90']:.1f}°"
    for name, value in list(contents.speed.items())[:1]:
        yield "Speed", number(value), name
    if scores is None and contents.rows:
        yield "Steps", f"{max(int(row['step']) for row in contents.rows):,}", ""


def _sections(contents: Contents) -> Iterator[Section]:
    if contents.rows:
        yield "training", "Training", _training(contents.rows)
    if contents.scores is not None:
        yield from evaluation_sections(contents.scores, contents.evidence)
    if contents.speed:
        rows = [[name, number(value)] for name, value in contents.speed.items()]
        yield "speed", "Speed", table("Measured in this run, on the machine named below.", ["what", "value"], rows)
    if contents.config:
        inner = facts("Every setting", contents.config)
        count = len(contents.config)
        yield "configuration", "Configuration", f"<details><summary>All {count} settings</summary>{inner}</details>"
    if contents.environment:
        yield "environment", "Environment", facts("Versions and hardware", contents.environment)
    if contents.scores is not None:
        yield "method", "How it is counted", _method(contents.scores)


def _method(scores: Scores) -> str:
    areas, eleven = shown(scores.summary()["map50"], 2), shown(scores.summary("voc07")["map50"], 2)
    return paragraph(
        "DOTA task 1: per class, detections of all images by falling score; each looks at the object of its class that it "
        "overlaps most, by the true IoU of the polygons as labelled. Above the threshold it is a true positive if it is the "
        "first there, else a false positive; on a difficult object it is ignored. Average precision is the area under the "
        f"monotone curve; means are over classes with objects. mAP50 as area: {areas} %; over eleven recalls (VOC07): {eleven} %."
    )


def _foot() -> str:
    return paragraph("This page is one file: it loads nothing and runs no script.", muted=True)


def _training(rows: Sequence[Mapping[str, Any]]) -> str:
    last = max((float(row["step"]) for row in rows), default=1.0)
    steps = Axis(0, max(last, 1.0), "Step")
    terms = dict.fromkeys(key for row in rows for key in row if key.startswith("loss_"))  # named by the head
    named: dict[str, tuple[str, int | str]] = {key: (key.removeprefix("loss_"), at % 10) for at, key in enumerate(terms)}
    parts = [
        _noisy("Loss", rows, steps, {"loss": ("total", "ink"), **named}),
        _scores(rows, steps),
        _noisy("Learning rate", rows, steps, {"lr": ("learning rate", 2)}, smooth=False),
        _noisy("Gradient norm, before clipping", rows, steps, {"grad_norm": ("gradient norm", 4)}),
    ]
    skipped = max((float(row.get("skipped") or 0) for row in rows), default=0.0)
    note = f"{skipped:.0f} steps were skipped because loss or gradient was not finite." if skipped else ""
    return (paragraph(note) if note else "") + f'<div class="pair">{"".join(parts)}</div>'


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[Floats, Floats]:
    found = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
    points = np.array(found, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    return points[:, 0], points[:, 1]


def _smoothed(values: Floats) -> Floats:
    """Centred moving average, over what there is of the window at both ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at, half = np.arange(len(values)), max(1, len(values) // (2 * _SMOOTH))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _noisy(
    heading: str, rows: Sequence[Mapping[str, Any]], steps: Axis, named: Mapping[str, tuple[str, int | str]], smooth: bool = True
) -> str:
    """Raw values faint, their moving average on top; the axis ends above nearly all values, whatever the spikes."""
    lines: list[Line] = []
    legend: list[tuple[int | str, str]] = []
    top = 0.0
    for key, (name, colour) in named.items():
        x, y = _series(rows, key)
        if not len(x):
            continue
        top = max(top, float(np.quantile(y, 0.99)))
        if smooth:
            lines.append(Line(x, y, colour, name, "faint"))
        lines.append(Line(x, _smoothed(y) if smooth else y, colour, name))
        legend.append((colour, f"{name}, last {lines[-1].y[-1]:.3g}"))
    if not lines:
        return figure(heading, paragraph("Nothing was recorded."))
    said = f"{heading} over the steps: " + ", ".join(text for _, text in legend)
    return figure(heading, line_chart(said, steps, Axis(0, 1.1 * top or 1.0), lines), legend=legend)


def _scores(rows: Sequence[Mapping[str, Any]], steps: Axis) -> str:
    lines, legend = [], []
    for colour, (key, name) in enumerate({"map50": "mAP50", "map75": "mAP75", "map50_95": "mAP50:95"}.items()):
        x, y = _series(rows, key)
        if len(x):
            lines.append(Line(x, y, colour, name, dots=True))
            legend.append((colour, f"{name}, last {shown(float(y[-1]))} %"))
    if not lines:
        return figure("Validation", paragraph("There was no validation."))
    said = "Validation over the steps: " + ", ".join(text for _, text in legend)
    return figure("Validation", line_chart(said, steps, Axis(0, 1, "", percent), lines), legend=legend)
