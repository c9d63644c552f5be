"""One self-contained HTML page about a training or an evaluation: figures, curves, failures as images, configuration, machine."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rotanext.config import Config, flat_values
from rotanext.errors import counted
from rotanext.evaluation.analysis import angle_errors, match
from rotanext.evaluation.evaluate import Evaluation
from rotanext.evaluation.metrics import Evidence, Scores
from rotanext.reports.charts import number, shown
from rotanext.reports.confusion import plot_confusion
from rotanext.reports.evaluation import evaluation_sections, plot_precision_recall
from rotanext.reports.html import Section, cards, facts, paragraph, table, whole_page
from rotanext.reports.training import training_section
from rotanext.system.facts import provenance
from rotanext.system.files import write_bytes

_NOTES = {"map50": "at IoU 0.5", "map75": "at IoU 0.75", "map50_95": "mean over the IoUs from 0.5 to 0.95"}


@dataclass(frozen=True, eq=False)
class Contents:
    """What a page is about; parts that are not there make no section.

    rows: of metrics.jsonl, see `training.training_charts`. about: what was trained or evaluated, by name. speed: figures by name,
    such as "images/s". config: every key with its value. environment: see `system.facts.provenance`.
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
    write_bytes(path, html.encode(errors="replace"))


def write_evaluation(
    evaluation: Evaluation, out: Path, about: Mapping[str, object], config: Config | None = None, device: Any = None
) -> None:
    """Write what `write_scores` writes, and `report.html`.

    about: what was evaluated. config: of the detector, where there was one. Raises UserError where `out` cannot be written.
    """
    write_scores(evaluation.scores, out)
    contents = Contents(
        title=f"Evaluation: {config.name}" if config else "Evaluation of detections",
        about=about,
        scores=evaluation.scores,
        evidence=evaluation.evidence,
        speed=evaluation.speed,
        config=flat_values(config) if config else {},
        environment=provenance(device),
    )
    write_report(contents, out / "report.html")


def write_scores(scores: Scores, out: Path) -> None:
    """Write `metrics.json`, `precision_recall.png` and `confusion.png`."""
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "metrics.json", (json.dumps(scores.to_json(), indent=1) + "\n").encode())
    plot_precision_recall(scores, out / "precision_recall.png")
    plot_confusion(scores, out / "confusion.png")


def html_report(contents: Contents) -> str:
    """The page as text; see `write_report`."""
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
        if scores.calibration.error is not None:
            yield "Calibration error", f"{shown(scores.calibration.error)} %", "expected one, of the scores"
        if scores.too_large is not None and scores.too_large.larger:
            yield "Too large", f"{scores.too_large.larger:,}", "detections longer than the diagonal of their image"
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
        yield "training", "Training", training_section(contents.rows)
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
