"""The sections of a report page that say how good a detector is, and where it fails."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

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
    trust,
    worst_angles,
    worst_false_positives,
    worst_misses,
)
from rotanext.evaluation.metrics import Evidence, Scores
from rotanext.evaluation.scores import BACKGROUND, THRESHOLDS, curve
from rotanext.reports.crops import Wanted, cut_crops
from rotanext.reports.html import figure, paragraph, scrolling, table
from rotanext.reports.svg import COLOURS, Axis, Bars, Line, bar_chart, line_chart, over_bars, percent

Section = tuple[str, str, str]  # id, heading, HTML
WORST = 12  # of each kind
_MOST_CLASSES = 40  # in curves and matrix; the tables have all
_STRICT = 0.75


def shown(value: float | None, digits: int = 1) -> str:
    """A share as percentage; a dash for none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def evaluation_sections(scores: Scores, evidence: Evidence | None) -> Iterator[Section]:
    """Curves, classes and confusion from the report; sizes, angles, scores and images where there is the evidence."""
    yield "precision-recall", "Precision and recall", _precision_recall(scores)
    yield "classes", "Classes", _classes(scores)
    yield "confusion", "Confusion matrix", _confusion(scores)
    if evidence is None:
        return
    matching, strict = match(evidence, scores.thresholds[0]), match(evidence, _STRICT)
    yield "shapes", "Size and shape", _shapes(matching, strict)
    errors = angle_errors(matching)
    yield "angles", "Angles", _angles(errors, evidence)
    yield "scores", "Scores", _scores(matching, scores.confusion_score)
    yield from _cases(matching, errors, scores.confusion_score)


def _largest(scores: Scores) -> list[int]:
    """The classes with most objects, in the order of the report."""
    counts = [result.npos for result in scores.at(scores.thresholds[0])]
    chosen = sorted(range(len(counts)), key=lambda k: -counts[k])[:_MOST_CLASSES]
    return sorted(chosen)


def _precision_recall(scores: Scores) -> str:
    iou = scores.thresholds[0]
    results = scores.at(iou)
    chosen = sorted((k for k in _largest(scores) if results[k].npos), key=lambda k: -results[k].ap_area)
    if not chosen:
        return paragraph("There are no labelled objects.")
    levels = np.linspace(0, 1, 201)
    lines: list[Line] = []
    legend: list[tuple[int | str, str]] = []
    for place, k in enumerate(chosen):
        result = results[k]
        colour, style = place % COLOURS, "dashed" if place // COLOURS % 2 else ""
        reached = result.recall[-1] if result.ndet else 0.0
        precision = np.where(levels <= reached + 1e-9, curve(result, levels), np.nan)
        lines.append(Line(levels, precision, colour, f"{result.name}: AP {shown(result.ap_area)} %", style))
        legend.append((colour, f"{result.name} {shown(result.ap_area)}"))
    everything = [result for result in results if result.npos]
    if len(everything) > 1:
        mean = np.mean([curve(result, levels) for result in everything], 0)
        text = f"mean of {len(everything)} classes {shown(scores.map(iou))}"
        lines.append(Line(levels, mean, "ink", text, "thick"))
        legend.insert(0, ("ink", text))
    axes = Axis(0, 1, "Recall", percent), Axis(0, 1, "Precision", percent)
    best = ", ".join(text for _, text in legend[:4])
    one = line_chart(f"Precision over recall at IoU {iou:g}; average precision in percent: {best}.", *axes, lines)
    ious = [t for t in scores.thresholds if t in THRESHOLDS]
    values = np.array([scores.map(t) or 0.0 for t in ious])
    two = line_chart(
        "Mean average precision over the IoU threshold: "
        + ", ".join(f"{t:g} {shown(v)}" for t, v in zip(ious, values, strict=True)),
        Axis(0.5, 0.95, "IoU threshold", lambda value: f"{value:.2f}"),
        Axis(0, 1, "mAP", percent),
        [Line(np.array(ious), values, 0, "mean average precision", dots=True)],
    )
    note = f"Average precision (area under the curve) in percent, IoU {iou:g}. Each curve ends at the greatest recall reached."
    many = f" The {_MOST_CLASSES} classes with most objects are drawn." if len(everything) > _MOST_CLASSES else ""
    return f'<div class="pair">{figure("All classes", one, note + many, legend)}{figure("How exact the boxes are", two)}</div>'


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


def _confusion(scores: Scores) -> str:
    chosen = [*_largest(scores), len(scores.class_names)]
    counts = scores.confusion[np.ix_(chosen, chosen)]
    rows = [scores.class_names[k] for k in chosen[:-1]]
    columns = [*rows, "missed"]
    share = counts / np.maximum(scores.confusion.sum(1)[chosen][:, None], 1)
    caption = (
        f"Rows are the truth, columns what was predicted: percent of each row, counts below. IoU above {scores.confusion_iou:g}, "
        f"scores of at least {scores.confusion_score:g}. The last row holds detections where nothing is labelled."
    )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for r, name in enumerate([*rows, BACKGROUND]):
        cells = [_cell(name, columns[c], int(counts[r, c]), float(share[r, c])) for c in range(len(columns))]
        body.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    many = f" Only the {_MOST_CLASSES} classes with most objects are shown." if len(scores.class_names) > _MOST_CLASSES else ""
    html = (
        f'<table class="matrix{" many" if len(columns) > 11 else ""}"><caption class="unseen">Confusion matrix</caption>'
        f'<thead><tr><td class="none"></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )
    return paragraph(caption + many, muted=True) + scrolling("Confusion matrix", html)


def _cell(truth: str, predicted: str, count: int, share: float) -> str:
    if not count:
        return "<td></td>" if (truth, predicted) != (BACKGROUND, "missed") else '<td class="none"></td>'
    what = "missed" if predicted == "missed" else f"predicted as {predicted}"
    title = escape(f"{truth}, {what}: {count:,} ({100 * share:.1f} %)")
    text = f"{100 * share:.0f}<small>{count:,}</small>"
    if truth == BACKGROUND:  # its shares say which class is invented most, not how often: no colour of success
        share *= 0.4
    strong = ' class="strong"' if share > 0.5 else ""
    return f'<td{strong} style="background:rgba(var(--heat),{0.06 + 0.94 * share:.2f})" title="{title}">{text}</td>'


def _shapes(matching: Matching, strict: Matching) -> str:
    parts = []
    for property_of, limits, heading, unit in (
        ("size", SIZES, "By size", " px"),
        ("aspect", ASPECTS, "By aspect ratio", ""),
    ):
        found = slices(matching, strict, property_of, limits)
        names = [_range(part, unit) for part in found]
        groups = [
            Bars(
                _values([p.ap for p in found]),
                0,
                "mAP50",
                [f"{n}: mAP50 {shown(p.ap)} %" for n, p in zip(names, found, strict=True)],
            ),
            Bars(
                _values([p.strict_ap for p in found]),
                1,
                "mAP75",
                [f"{n}: mAP75 {shown(p.strict_ap)} %" for n, p in zip(names, found, strict=True)],
            ),
        ]
        said = "; ".join(f"{n} {shown(p.ap)}" for n, p in zip(names, found, strict=True))
        name = {"size": "Square root of the area", "aspect": "Long edge over short edge"}[property_of]
        chart = bar_chart(f"mAP50 in percent {heading.lower()}: {said}.", names, Axis(0, 1, "mAP", percent), groups, name)
        legend = ((0, f"mAP at IoU {matching.iou:g}"), (1, f"mAP at IoU {strict.iou:g}"))
        parts.append(f"<div>{figure(heading, chart, legend=legend)}{_slice_table(heading, names, found)}</div>")
    note = (
        "A detection counts where the object belongs that it covers, and by its own box where there is none; so every object and "
        "every detection is in one group. Means are over the classes that have objects in the group. Sizes are of the labelled "
        "boxes, in pixels of the images."
    )
    return paragraph(note, muted=True) + f'<div class="pair">{"".join(parts)}</div>'


def _values(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


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
    one = _histogram(said, np.abs(signed), 0, most, step, 0, "Angle error in degrees")
    said = f"Signed angle errors: median {whole['bias']:+.2f} degrees."
    two = _histogram(said, signed, -most, most, step, 2, "Signed angle error in degrees")
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
    pair = f'<div class="pair">{figure("How large", one)}{figure("Which way", two)}</div>'
    return paragraph(note, muted=True) + pair + table(caption, headings, rows, ["all", *_angle_cells(whole)])


def _histogram(said: str, degrees: np.ndarray, low: int, high: int, step: int, colour: int, name: str) -> str:
    """Shares of the values in equal steps; what lies beyond is in the first and the last."""
    starts = list(range(low, high, step))
    counts = np.histogram(np.clip(degrees, low, high - 1e-9), [*starts, high])[0]
    share = counts / len(degrees)
    axis = Axis(0, max(0.05, math.ceil(20 * share.max()) / 20), "Share of the matched boxes", percent)
    texts = [f"{k}° to {k + step}°: {n:,} ({100 * part:.1f} %)" for k, n, part in zip(starts, counts, share, strict=True)]
    ends = "" if high == 90 else f"; beyond {high} in the last"
    return bar_chart(said, [f"{k}°" for k in starts], axis, [Bars(share.tolist(), colour, "", texts)], name + ends, True)


def _angle_cells(found: Mapping[str, float] | None) -> list[str]:
    if found is None:
        return ["0", "–", "–", "–", "–"]
    degrees = [f"{found['median']:.1f}°", f"{found['p90']:.1f}°", f"{found['bias']:+.2f}°"]
    return [f"{found['count']:,}", *degrees, f"{100 * found['beyond10']:.1f} %"]


def _scores(matching: Matching, least: float) -> str:
    found = trust(matching)
    labels = [f"{low:.1f}" for low in found.edges[:-1]]
    top = max(1.0, float((found.true + found.false).max(initial=0)))
    spans = [f"score {low:.1f} to {low + 0.1:.1f}" for low in found.edges[:-1]]
    groups = [
        Bars(found.true.tolist(), "good", "true", [f"{s}: {n:,} true positives" for s, n in zip(spans, found.true, strict=True)]),
        Bars(
            found.false.tolist(), "bad", "false", [f"{s}: {n:,} false positives" for s, n in zip(spans, found.false, strict=True)]
        ),
    ]
    said = f"Detections by score: {int(found.true.sum()):,} true and {int(found.false.sum()):,} false positives."
    one = bar_chart(said, labels, Axis(0, 1.05 * top, "Detections"), groups, "Score from", stacked=True)
    error = "" if found.error is None else f" Expected calibration error: {100 * found.error:.1f} %."
    texts = [f"{s}: {shown(float(p))} % are true positives" for s, p in zip(spans, found.precision, strict=True)]
    axis = Axis(0, 1, "Share of true positives", percent)
    chart = bar_chart(
        f"Share of true positives by score.{error}", labels, axis, [Bars(found.precision.tolist(), 0, "", texts)], "Score from"
    )
    diagonal = Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "ink", "score equals precision", "dashed")
    two = over_bars(chart, Axis(0, 1), axis, diagonal)
    why = reasons(matching)
    confident = why[matching.evidence.predictions.scores >= least]
    counts = [int((confident == k).sum()) for k in range(len(REASONS))]
    total = max(1, sum(counts))
    rows = [[reason, f"{count:,}", f"{100 * count / total:.1f} %"] for reason, count in zip(REASONS, counts, strict=True)]
    caption = f"Why false positives with a score of at least {least:g} are false (IoU {matching.iou:g})."
    legend = (("good", "true positives"), ("bad", "false positives"))
    pair = (
        f'<div class="pair">{figure("True and false positives", one, legend=legend)}'
        f"{figure('Calibration', two, 'The dashed line: scores that are probabilities.' + error)}</div>"
    )
    return pair + table(caption, ["reason", "false positives", "share"], rows)


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
        '<p class="muted"><span class="key" style="border-color:#2ecc71"></span>truth '
        '<span class="key" style="border-color:#ff8c1a"></span>detection. Thick: the box in question; thin: the others about it, '
        f"detections from a score of {score:g} on. Dashed: difficult objects.</p>"
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
