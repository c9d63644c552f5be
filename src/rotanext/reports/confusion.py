"""The confusion matrix: as a table for a page, and as an image.

The page has a table instead of the image's drawing, because it would get worse by that: a table's cells are read out, copied,
and pointed at for their counts, and sixty classes scroll in both directions with letters of full size.
"""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rotanext.evaluation.scores import BACKGROUND, Scores
from rotanext.reports.charts import plotting, save_png, say_nothing, title
from rotanext.reports.colours import LIGHT
from rotanext.reports.html import paragraph, scrolling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 40  # in curves and matrix; the tables have all


def largest_classes(scores: Scores) -> list[int]:
    """The classes with most objects, at most MOST_CLASSES, in the order of the scores."""
    counts = [result.npos for result in scores.at(scores.thresholds[0])]
    chosen = sorted(range(len(counts)), key=lambda k: -counts[k])[:MOST_CLASSES]
    return sorted(chosen)


def confusion_table(scores: Scores) -> str:
    """The matrix as HTML: shade and percentage per row (truth), counts in small print."""
    chosen = [*largest_classes(scores), len(scores.class_names)]
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
    many = f" Only the {MOST_CLASSES} classes with most objects are shown." if len(scores.class_names) > MOST_CLASSES else ""
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
    hint = escape(f"{truth}, {what}: {count:,} ({100 * share:.1f} %)")
    text = f"{100 * share:.0f}<small>{count:,}</small>"
    if truth == BACKGROUND:  # its shares say which class is invented most, not how often: no colour of success
        share *= 0.4
    strong = ' class="strong"' if share > 0.5 else ""
    return f'<td{strong} style="background:rgba(var(--heat),{0.06 + 0.94 * share:.2f})" title="{hint}">{text}</td>'


def plot_confusion(scores: Scores, path: str | Path) -> None:
    """Write the confusion matrix of all classes as an image: shade and percentage per row (truth), counts in small print.

    The last row holds detections where nothing is, the last column objects that were missed.
    """
    names = list(scores.class_names)
    counts = scores.confusion
    size = len(counts)
    cell = float(np.clip(2.6 / size, 0.46, 1.0))  # inches
    side = max(3.2, cell * size)
    longest = max((len(name) for name in names), default=0)
    with plotting() as new_figure:
        room = side + 0.075 * longest + 0.8, side + (0.05 * longest if size > 4 else 0.3) + 0.9
        figure = new_figure(figsize=room, layout="constrained")
        axes = figure.add_subplot()
        title(axes, "Confusion matrix")
        axes.set_xlabel("Predicted", fontsize=9, color=LIGHT["ink"])
        axes.set_ylabel("Truth", fontsize=9, color=LIGHT["ink"])
        axes.tick_params(labelsize=8, labelcolor=LIGHT["ink"], length=0)
        if not counts.any():
            say_nothing(axes, "no objects, no detections")
        note = f"% of each row, counts below · IoU > {scores.confusion_iou:g}, score ≥ {scores.confusion_score:g}"
        figure.supxlabel(note, fontsize=7.5, color=LIGHT["muted"])
        axes.spines[:].set_visible(False)
        axes.set_xticks(range(size), [*names, "missed"], rotation=45 if size > 4 else 0, ha="right" if size > 4 else "center")
        axes.set_yticks(range(size), [*names, BACKGROUND])
        _fill(axes, counts, cell)
        save_png(figure, path)


def _fill(axes: "Axes", counts: np.ndarray, cell: float) -> None:
    """Shades, seams and figures of counts `[K, K]`, in cells of so many inches."""
    size = len(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    # The background's row and column are no classes: a wide seam sets them apart, thin white ones separate the cells.
    for at in range(1, size):
        axes.axhline(at - 0.5, color="white", linewidth=4 if at == size - 1 else 0.8)
        axes.axvline(at - 0.5, color="white", linewidth=4 if at == size - 1 else 0.8)
    large = float(np.clip(0.29 * 72 * cell, 5, 13))
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if share[row, column] > 0.55 else LIGHT["ink"]
        text: dict[str, Any] = {"ha": "center", "color": colour, "in_layout": False}
        axes.text(column, row - 0.02, f"{100 * share[row, column]:.0f}", va="bottom", fontsize=large, **text)
        axes.text(column, row + 0.08, f"{counts[row, column]:,}", va="top", fontsize=0.72 * large, alpha=0.75, **text)
