"""Images of an evaluation and of a training run: figures of their own, no pyplot, no global state."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from rotanext.evaluation.scores import BACKGROUND, ClassResult, Scores, curve

_INK, _MUTED, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_BLUE, _ORANGE, _GREEN = "#1f6fb2", "#e07b28", "#2a9d6f"
_DASHES = ("-", (0, (5, 1.5)))
_DPI = 160


def _dress(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """The common look: title at the left, quiet grid, no box."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=9)
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK, length=0)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_MUTED)


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.set(w_pad=0.12, h_pad=0.12)  # type: ignore[call-arg]
    figure.savefig(path, dpi=_DPI, facecolor="white")


def _nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=11, color=_MUTED)


def _trace(result: ClassResult) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the interpolated curve, from recall 0 to the greatest one reached."""
    if not result.tp:
        return np.zeros(1), np.zeros(1)
    end = int(np.flatnonzero(result.hits > 0)[-1]) + 1
    recall, precision = result.recall[:end], result.precision[:end]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(0.0, recall), np.append(envelope[0], envelope)


def plot_precision_recall(scores: Scores, path: str | Path) -> None:
    """Write the precision-recall curves of all classes with objects at the report's first threshold as an image.

    The legend is sorted by average precision (area); the mean of the curves is drawn bold, a dot ends each class.
    Without any object the axes stay empty.
    """
    iou = scores.thresholds[0]
    results = sorted((r for r in scores.at(iou) if r.npos), key=lambda r: -r.ap_area)
    figure = Figure(figsize=(9.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, f"Precision and recall at IoU {iou:g}", "Recall", "Precision")
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for k, result in enumerate(results):
        recall, precision = _trace(result)
        label = f"{100 * result.ap_area:5.1f}  {result.name}"
        dash = _DASHES[k // 10 % len(_DASHES)]
        axes.plot(
            recall,
            precision,
            color=colours[k % 10],
            linestyle=dash,
            linewidth=1.5 if len(results) > 1 else 2.8,
            label=label,
        )
        if result.tp:
            axes.plot(recall[-1:], precision[-1:], "o", color=colours[k % 10], markersize=4)
    if len(results) > 1:
        levels = np.linspace(0, 1, 1001)
        mean = np.mean([curve(r, levels) for r in results], 0)
        label = f"{100 * (scores.map(iou) or 0.0):5.1f}  mean of {len(results)}"
        axes.plot(levels, mean, color=_INK, linewidth=3.2, label=label, solid_capstyle="round")
    if results:
        handles, labels = axes.get_legend_handles_labels()
        legend = figure.legend(
            [handles[-1], *handles[:-1]],  # the mean first
            [labels[-1], *labels[:-1]],
            loc="outside right upper",
            prop={"family": "DejaVu Sans Mono", "size": 8},
            frameon=False,
            handlelength=2.6,
            title="AP (%)",
            title_fontsize=9,
            alignment="left",
            ncols=1 + (len(results) > 30),
        )
        legend.get_texts()[0].set_fontweight("bold")
    else:
        _nothing(axes, "no labelled objects")
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    _save(figure, path)


def plot_confusion(scores: Scores, path: str | Path) -> None:
    """Write the confusion matrix as an image: shade and percentage per row (truth), counts in small print.

    The last row holds detections where nothing is, the last column objects that were missed.
    """
    names = list(scores.class_names)
    counts = scores.confusion
    size = len(counts)
    cell = float(np.clip(2.6 / size, 0.46, 1.0))  # inches
    side = max(3.2, cell * size)
    longest = max((len(name) for name in names), default=0)
    figure = Figure(
        figsize=(side + 0.075 * longest + 0.8, side + (0.05 * longest if size > 4 else 0.3) + 0.9), layout="constrained"
    )
    axes = figure.add_subplot()
    _dress(axes, "Confusion matrix", "Predicted", "Truth")
    if not counts.any():
        _nothing(axes, "no objects, no detections")
    note = f"% of each row, counts below · IoU > {scores.confusion_iou:g}, score ≥ {scores.confusion_score:g}"
    figure.supxlabel(note, fontsize=7.5, color=_MUTED)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    # The background's row and column are no classes: a gap sets them apart, white lines separate the cells.
    for at in range(1, size):
        axes.axhline(at - 0.5, color="white", linewidth=4 if at == size - 1 else 0.8)
        axes.axvline(at - 0.5, color="white", linewidth=4 if at == size - 1 else 0.8)
    axes.set_xticks(range(size), [*names, "missed"], rotation=45 if size > 4 else 0, ha="right" if size > 4 else "center")
    axes.set_yticks(range(size), [*names, BACKGROUND])
    large = float(np.clip(0.29 * 72 * cell, 5, 13))
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if share[row, column] > 0.55 else _INK
        text: dict[str, Any] = {"ha": "center", "color": colour, "in_layout": False}
        axes.text(column, row - 0.02, f"{100 * share[row, column]:.0f}", va="bottom", fontsize=large, **text)
        axes.text(column, row + 0.08, f"{counts[row, column]:,}", va="top", fontsize=0.72 * large, alpha=0.75, **text)
    _save(figure, path)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and finite values of the rows that hold this key (null where a value was undefined)."""
    found = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None and "step" in row]
    points = np.array(found, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    return points[:, 0], points[:, 1]


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred moving average over a fortieth of the run, over what there is of the window at both ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at, half = np.arange(len(values)), max(1, len(values) // 80)
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def plot_training(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write a run's curves as an image, from the rows of `metrics.jsonl`.

    Training rows hold step, loss, its terms under the head's names (loss_...), lr, grad_norm; validation rows step, map50,
    map75, map50_95 (in [0, 1]). Missing keys and undefined values (null, NaN) are left out; a smooth line lies over the
    faint raw one.
    """
    figure = Figure(figsize=(10.4, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    losses, scores = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    rate, norm = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    _dress(losses, "Loss")
    terms = dict.fromkeys(key for row in rows for key in row if key.startswith("loss_"))
    coloured = zip(terms, cycle((_BLUE, _ORANGE, _GREEN)), strict=False)
    _noisy(losses, rows, {"loss": ("total", _INK), **{key: (key.removeprefix("loss_"), colour) for key, colour in coloured}})
    _dress(scores, "Validation mAP")
    named = {"map50": ("mAP50", _BLUE), "map75": ("mAP75", _ORANGE), "map50_95": ("mAP50:95", _GREEN)}
    for key, (label, colour) in named.items():
        steps, values = _series(rows, key)
        if len(steps):
            scores.plot(steps, values, "o-", color=colour, linewidth=1.8, markersize=3.5, label=f"{label}  {values[-1]:.3f}")
    if scores.lines:
        scores.set_ylim(0, 1)
        scores.legend(frameon=False, fontsize=8, title="last", title_fontsize=8, alignment="left")
    else:
        _nothing(scores, "no validation yet")
    _dress(rate, "Learning rate", "Step")
    steps, values = _series(rows, "lr")
    if len(steps):
        rate.plot(steps, values, color=_GREEN, linewidth=1.8)
        rate.set_ylim(0, 1.08 * values.max(initial=1e-12))
        rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1e}".replace(".0e", "e") if value else "0"))
    else:
        _nothing(rate, "nothing recorded")
    _dress(norm, "Gradient norm, before clipping", "Step")
    _noisy(norm, rows, {"grad_norm": ("", _INK)})
    last = max((float(row["step"]) for row in rows if "step" in row), default=1.0)
    for axes in figure.axes:
        axes.set_xlim(0, 1.01 * max(last, 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _save(figure, path)


def _noisy(axes: Axes, rows: Sequence[Mapping[str, Any]], named: Mapping[str, tuple[str, str]]) -> None:
    """Raw values faint, their moving average on top; the axis ends above nearly all values, whatever the spikes."""
    top = 0.0
    for key, (label, colour) in named.items():
        steps, values = _series(rows, key)
        if len(steps):
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.25)
            axes.plot(steps, _smooth(values), color=colour, linewidth=1.9, label=label)
            top = max(top, float(np.quantile(values, 0.99)))
    if not axes.lines:
        _nothing(axes, "nothing recorded")
        return
    axes.set_ylim(0, 1.15 * top if top > 0 else 1.0)
    if any(label for label, _ in named.values()):
        axes.legend(frameon=False, fontsize=8)
