"""The sections of a report page that say how good a detector is, and where it fails."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from rotanext.evaluation.analysis import (
    ASPECTS,
    LEAST_ASPECT,
    REASONS,
    SIZES,
    AngleErrors,
    Matching,
    Slice,
    angle_errors,
    match,
    reasons,
    slices,
    worst_angles,
    worst_false_positives,
    worst_misses,
)
from rotanext.evaluation.metrics import Evidence, Scores
from rotanext.evaluation.scores import THRESHOLDS, curve
from rotanext.reports.calibration import counts_chart, reliability_chart
from rotanext.reports.charts import Axis, Bars, Chart, Line, percent, shown, write_charts
from rotanext.reports.colours import SERIES
from rotanext.reports.confusion import MOST_CLASSES, confusion_table, largest_classes
from rotanext.reports.crops import DETECTION, TRUTH, Wanted, cut_crops
from rotanext.reports.html import Section, figure, pair, paragraph, table

WORST = 12  # of each kind
_STRICT = 0.75


def evaluation_sections(scores: Scores, evidence: Evidence | None) -> Iterator[Section]:
    """Curves, classes and confusion from the report; sizes, angles, scores and images where there is the evidence."""
    yield "precision-recall", "Precision and recall", _precision_recall(scores)
    yield "classes", "Classes", _classes(scores)
    yield "confusion", "Confusion matrix", confusion_table(scores)
    if evidence is None:
        return
    matching, strict = match(evidence, scores.thresholds[0]), match(evidence, _STRICT)
    yield "shapes", "Size and shape", _shapes(matching, strict)
    errors = angle_errors(matching)
    yield "angles", "Angles", _angles(errors, evidence)
    yield "scores", "Scores", _scores(matching, scores)
    yield from _cases(matching, errors, scores.confusion_score)


def plot_precision_recall(scores: Scores, path: str | Path) -> None:
    """Write the precision-recall curves as a PNG image; see `precision_recall_chart`."""
    write_charts([precision_recall_chart(scores)], path, beside=True)


def precision_recall_chart(scores: Scores) -> Chart:
    """The curves of the classes with objects at the first threshold of the scores, best first, and the mean of them all, bold.

    Each curve is the interpolated one, up to a dot at the greatest recall reached.
    """
    iou = scores.thresholds[0]
    results = scores.at(iou)
    everything = [result for result in results if result.npos]
    chosen = sorted((k for k in largest_classes(scores) if results[k].npos), key=lambda k: -results[k].ap_area)
    levels = np.linspace(0, 1, 201)
    lines: list[Line] = []
    if len(everything) > 1:
        mean = np.mean([curve(result, levels) for result in everything], 0)
        text = f"mean of {len(everything)} classes {shown(scores.map(iou))}"
        lines.append(Line(levels, mean, "ink", text, text, "thick"))
    for place, k in enumerate(chosen):
        result = results[k]
        colour, style = str(place % SERIES), "dashed" if place // SERIES % 2 else ""
        reached = float(result.recall[-1]) if result.ndet else 0.0
        recall = np.append(levels[levels < reached], reached)
        name = f"{result.name}: AP {shown(result.ap_area)} %"
        lines.append(Line(recall, curve(result, recall), colour, name, f"{result.name} {shown(result.ap_area)}", style, dots="end"))
    best = ", ".join(line.key for line in lines[:4])
    many = f" The {MOST_CLASSES} classes with most objects are drawn." if len(everything) > MOST_CLASSES else ""
    return Chart(
        f"Precision and recall at IoU {iou:g}",
        f"Precision over recall at IoU {iou:g}; average precision in percent: {best}.",
        Axis(0, 1, "Recall", percent),
        Axis(0, 1, "Precision", percent),
        lines,
        note=f"Average precision (area under the curve) in percent. Each curve ends at the greatest recall reached.{many}",
        empty="There are no labelled objects.",
    )


def _precision_recall(scores: Scores) -> str:
    chart = precision_recall_chart(scores)
    if not chart.lines:
        return paragraph(chart.empty)
    ious = [t for t in scores.thresholds if t in THRESHOLDS]
    values = np.array([scores.map(t) or 0.0 for t in ious])
    exact = Chart(
        "How exact the boxes are",
        "Mean average precision over the IoU threshold: "
        + ", ".join(f"{t:g} {shown(v)}" for t, v in zip(ious, values, strict=True)),
        Axis(0.5, 0.95, "IoU threshold", lambda value: f"{value:.2f}"),
        Axis(0, 1, "mAP", percent),
        [Line(np.array(ious), values, "0", "mean average precision", dots="all")],
    )
    return pair(figure(chart), figure(exact))


def _classes(scores: Scores) -> str:
    main = scores.thresholds[0]
    columns = [t for t in (0.5, _STRICT) if t in scores.thresholds]
    has_all = all(t in scores.thresholds for t in THRESHOLDS)
    headings = ["class", "objects", "detections", *(f"AP{100 * t:.0f}" for t in columns), *(["AP50:95"] if has_all else [])]
    rows = []
    for k, result in enumerate(scores.at(main)):
        aps = [scores.at(t)[k].ap_area if result.npos else None for t in columns]
        if has_all:
            aps.append(float(np.mean([scores.at(t)[k].ap_area for t in THRESHOLDS])) if result.npos else None)
        best = result.best_f1() or {}
        cells = [shown(best.get(key)) for key in ("precision", "recall", "f1")]
        at = f"{best['score']:.2f}" if best else "–"
        rows.append([result.name, f"{result.npos:,}", f"{result.ndet:,}", *map(shown, aps), *cells, at])
    totals = [f"{sum(getattr(r, key) for r in scores.at(main)):,}" for key in ("npos", "ndet")]
    means = [scores.map(t) for t in columns] + ([scores.map50_95()] if has_all else [])
    caption = f"In percent. Precision, recall and F1 at the score where F1 is greatest, IoU {main:g}."
    total = ["mean", *totals, *map(shown, means), "", "", "", ""]
    return table(caption, [*headings, "precision", "recall", "F1", "at score"], rows, total)


def _shapes(matching: Matching, strict: Matching) -> str:
    parts = []
    for property_of, limits, heading, unit in (
        ("size", SIZES, "By size", " px"),
        ("aspect", ASPECTS, "By aspect ratio", ""),
    ):
        found = slices(matching, strict, property_of, limits)
        names = [_range(part, unit) for part in found]
        of = {"size": "Square root of the area", "aspect": "Long edge over short edge"}[property_of]
        chart = Chart(
            heading,
            f"mAP50 in percent {heading.lower()}: {'; '.join(f'{n} {shown(p.ap)}' for n, p in zip(names, found, strict=True))}.",
            Axis(0, max(1, len(names)), of),
            Axis(0, 1, "mAP", percent),
            bars=[
                _mean_bars("mAP50", matching.iou, "0", names, [part.ap for part in found]),
                _mean_bars("mAP75", strict.iou, "1", names, [part.strict_ap for part in found]),
            ],
            labels=names,
        )
        parts.append(f"<div>{figure(chart)}{_slice_table(heading, names, found)}</div>")
    note = (
        "A detection counts where the object belongs that it covers, and by its own box where there is none; so every object and "
        "every detection is in one group. Means are over the classes that have objects in the group. Sizes are of the labelled "
        "boxes, in pixels of the images."
    )
    return paragraph(note, muted=True) + pair(*parts)


def _mean_bars(name: str, iou: float, colour: str, groups: Sequence[str], values: Sequence[float | None]) -> Bars:
    titles = [f"{group}: {name} {shown(value)} %" for group, value in zip(groups, values, strict=True)]
    return Bars([math.nan if value is None else value for value in values], colour, titles, f"mAP at IoU {iou:g}")


def _range(part: Slice, unit: str) -> str:
    if part.low == 0:
        return f"< {part.high:g}{unit}"
    return f"≥ {part.low:g}{unit}" if math.isinf(part.high) else f"{part.low:g}–{part.high:g}{unit}"


def _slice_table(heading: str, names: Sequence[str], found: Sequence[Slice]) -> str:
    rows = [
        [name, f"{p.npos:,}", f"{p.ndet:,}", shown(p.ap), shown(p.strict_ap), shown(p.recall)]
        for name, p in zip(names, found, strict=True)
    ]
    return table(
        f"{heading}, in percent; recall at any score.", ["group", "objects", "detections", "mAP50", "mAP75", "recall"], rows
    )


def _angles(errors: AngleErrors, evidence: Evidence) -> str:
    whole = errors.summary(errors.elongated)
    square = int((~errors.elongated).sum())
    if whole is None:
        return paragraph(f"No true positive is of an elongated object (aspect ratio of at least {LEAST_ASPECT:g}).")
    signed = errors.degrees[errors.elongated]
    # steps as fine as the errors are small; the last holds all beyond
    step, most = (1, 20) if whole["p90"] < 15 else (5, 90)
    said = f"Angle errors: median {whole['median']:.1f} degrees, nine in ten below {whole['p90']:.1f} degrees."
    one = _histogram("How large", said, np.abs(signed), (0, most, step), "0", "Angle error in degrees")
    said = f"Signed angle errors: median {whole['bias']:+.2f} degrees."
    two = _histogram("Which way", said, signed, (-most, most, step), "2", "Signed angle error in degrees")
    rows = []
    for label, name in enumerate(evidence.class_names):
        found = errors.summary(errors.elongated & (evidence.predictions.labels[errors.rows] == label))
        rows.append([name, *_angle_cells(found)])
    headings = ["class", "matched boxes", "median", "9 in 10 below", "signed median", "beyond 10°"]
    caption = "Angle errors in degrees of the boxes that found an elongated object."
    note = (
        f"Detection minus truth, modulo 180 degrees, positive clockwise; of true positives at IoU 0.5. {square:,} matched objects "
        f"are nearly square (aspect ratio below {LEAST_ASPECT:g}) and left out: they have no direction. A signed median far from "
        "0, or many errors near 90 degrees, points to a wrong angle convention."
    )
    return (
        paragraph(note, muted=True) + pair(figure(one), figure(two)) + table(caption, headings, rows, ["all", *_angle_cells(whole)])
    )


def _histogram(heading: str, said: str, degrees: np.ndarray, span: tuple[int, int, int], colour: str, name: str) -> Chart:
    """Shares of the values in equal steps of a span (low, high, step); what lies beyond is in the first and the last."""
    low, high, step = span
    starts = list(range(low, high, step))
    counts = np.histogram(np.clip(degrees, low, high - 1e-9), [*starts, high])[0]
    share = counts / len(degrees)
    titles = [f"{k}° to {k + step}°: {n:,} ({100 * part:.1f} %)" for k, n, part in zip(starts, counts, share, strict=True)]
    ends = "" if high == 90 else f"; beyond {high} in the last"
    x = Axis(0, len(starts), name + ends)
    y = Axis(0, max(0.05, math.ceil(20 * share.max()) / 20), "Share of the matched boxes", percent)
    return Chart(heading, said, x, y, bars=[Bars(share.tolist(), colour, titles)], labels=[f"{k}°" for k in starts])


def _angle_cells(found: Mapping[str, float] | None) -> list[str]:
    if found is None:
        return ["0", "–", "–", "–", "–"]
    degrees = [f"{found['median']:.1f}°", f"{found['p90']:.1f}°", f"{found['bias']:+.2f}°"]
    return [f"{found['count']:,}", *degrees, f"{100 * found['beyond10']:.1f} %"]


def _scores(matching: Matching, scores: Scores) -> str:
    least = scores.confusion_score
    why = reasons(matching)
    confident = why[matching.evidence.predictions.scores >= least]
    counts = [int((confident == k).sum()) for k in range(len(REASONS))]
    total = max(1, sum(counts))
    rows = [[reason, f"{count:,}", f"{100 * count / total:.1f} %"] for reason, count in zip(REASONS, counts, strict=True)]
    caption = f"Why false positives with a score of at least {least:g} are false (IoU {matching.iou:g})."
    remarks = paragraph(" ".join(scores.remarks()))
    charts = pair(figure(reliability_chart(scores.calibration)), figure(counts_chart(scores.calibration)))
    return remarks + charts + table(caption, ["reason", "false positives", "share"], rows)


def _cases(matching: Matching, errors: AngleErrors, score: float) -> Iterator[Section]:
    """The worst false positives, misses and angles, with their crops; every image is read once for all of them."""
    evidence = matching.evidence
    predictions, truths = evidence.predictions, evidence.truths
    false = worst_false_positives(matching, WORST)
    missed = worst_misses(matching, WORST, score)
    turned = worst_angles(errors, predictions.scores, WORST, score)
    why = reasons(matching)
    wanted: list[Wanted] = []
    captions: list[tuple[str, str]] = []
    for row in false.tolist():
        of = REASONS[why[row]]
        truth = {"nothing there": -1, "wrong class": int(matching.other_object[row])}.get(of, int(matching.best_object[row]))
        wanted.append(Wanted(int(predictions.images[row]), predictions.corners[row], row, truth))
        other = f": a {evidence.class_names[truths.labels[truth]]}" if of == "wrong class" else ""
        near = f", IoU {matching.best_iou[row]:.2f}" if of == "badly placed" else ""
        captions.append((f"{_name(matching, row)} {predictions.scores[row]:.2f}", f"{of}{other}{near}"))
    for row in missed.tolist():
        finder = int(matching.finder[row])
        wanted.append(Wanted(int(truths.images[row]), truths.corners[row], truth=row))
        width, height = matching.truth_boxes[row, 2:4]
        by = f"best score {predictions.scores[finder]:.2f}" if finder >= 0 else "not found at any score"
        captions.append((evidence.class_names[truths.labels[row]], f"{by}, {width:.0f} × {height:.0f} px"))
    for place in turned.tolist():
        row, truth = int(errors.rows[place]), int(errors.objects[place])
        both = np.concatenate([predictions.corners[row], truths.corners[truth]])
        wanted.append(Wanted(int(truths.images[truth]), both, row, truth))
        captions.append((f"{_name(matching, row)} {predictions.scores[row]:.2f}", f"turned by {errors.degrees[place]:+.1f}°"))
    crops = cut_crops(evidence, wanted, score)
    confident = int(((matching.outcome < 0) & (predictions.scores >= score)).sum())
    unfound = len(worst_misses(matching, len(truths.labels), score))
    notes = (
        f"{confident:,} detections with a score of at least {score:g} are false; these have the highest scores.",
        f"{unfound:,} objects are found by no box of their class with a score of at least {score:g}; large ones first.",
        "Boxes that count as found although they point elsewhere.",
    )
    key = (
        f'<p class="muted"><span class="key" style="border-color:rgb{TRUTH}"></span>truth '
        f'<span class="key" style="border-color:rgb{DETECTION}"></span>detection. '
        f"Thick: the box in question; thin: the others about it, detections "
        f"from a score of {score:g} on. Dashed: difficult objects.</p>"
    )
    ends = np.cumsum([0, len(false), len(missed), len(turned)]).tolist()
    for k, (name, heading, nothing) in enumerate(
        (
            ("false-positives", "Worst false positives", "There are no false positives."),
            ("misses", "Worst misses", f"Every object is found with a score of at least {score:g}."),
            ("turned", "Largest angle errors", "No elongated object was found."),
        )
    ):
        chosen = range(ends[k], ends[k + 1])
        items = [_crop(evidence, wanted[at], captions[at], crops.get(at)) for at in chosen]
        html = f'{paragraph(notes[k])}{key}<ul class="crops">{"".join(items)}</ul>'
        yield name, heading, html if items else paragraph(nothing)


def _name(matching: Matching, row: int) -> str:
    return matching.evidence.class_names[matching.evidence.predictions.labels[row]]


def _crop(evidence: Evidence, wanted: Wanted, caption: tuple[str, str], uri: str | None) -> str:
    """One crop with its caption; class and file names are somebody else's text."""
    x, y = wanted.corners.mean(0)
    stem = evidence.stems[wanted.image]
    alt = escape(f"{caption[0]}, {caption[1]}, in {stem} at {x:.0f}, {y:.0f}")
    image = f'<img src="{uri}" alt="{alt}" decoding="async">' if uri else '<div class="noimage">no image</div>'
    where = f'<span class="muted" title="{escape(stem)}">{escape(_middle_cut(stem))}<br>at {x:.0f}, {y:.0f}</span>'
    text = f"<b>{escape(caption[0])}</b><br>{escape(caption[1])}<br>{where}"
    return f"<li><figure>{image}<figcaption>{text}</figcaption></figure></li>"


def _middle_cut(name: str, most: int = 18) -> str:
    """A long name without its middle: cameras and exports number at the end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 2) :]}"
