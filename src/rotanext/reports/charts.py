"""Charts: plain descriptions of lines and bars, drawn by one function, as inline SVG for a page and as PNG files.

The plotting library is imported where something is drawn, and nowhere else.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rotanext.reports.colours import LIGHT
from rotanext.reports.svg import DOT, TEXT, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
_WIDTH, _HEIGHT = 480, 300  # of a chart on a page, in its units; in files these are points
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 12, 44
_STRETCHES = 200  # a line keeps the lowest and the highest point of each
_SMOOTH = 25  # the moving average is over one part in so many
_DPI = 110
_DASHES = (3.0, 2.0)  # dash and room between, in line widths


def percent(value: float) -> str:
    """0.5 as 50%."""
    return f"{100 * value:.0f}%"


def shown(value: float | None, digits: int = 1) -> str:
    """A share as percentage; a dash for none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def number(value: float) -> str:
    """A number as short as an axis needs it: 1,500, 0.25, 1e-05."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: its range, its name, how its numbers are written, and whether they are whole ones."""

    low: float
    high: float
    name: str = ""
    text: Callable[[float], str] = number
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Line:
    """Points x, y `[N]` (not finite: left out; beyond the y axis: cut off), with the name of their colour.

    title: shown when the line is pointed at. key: its text in the legend, if it stands there. style: faint, thick, dashed.
    dots: at every point ("all") or at the last one ("end"); one point alone always has its dot.
    """

    x: Floats
    y: Floats
    colour: str
    title: str
    key: str = ""
    style: str = ""
    dots: str = ""


@dataclass(frozen=True, eq=False)
class Bars:
    """Values (NaN: none), one for each label of a chart, or for equal steps of its x axis where it has no labels.

    With the name of their colour, a title for each, and the legend's text.
    """

    values: Sequence[float]
    colour: str
    titles: Sequence[str]
    key: str = ""


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart of lines, of bars, or of lines over bars.

    said: what it shows, in words. labels: one for each place along x, where bars stand for things rather than for steps of x; the x
    axis then goes from 0 to their number. stacked: bars lie on each other instead of side by side. note: small print. empty: said
    where there is nothing to draw.
    """

    heading: str
    said: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    bars: Sequence[Bars] = ()
    labels: Sequence[str] = ()
    stacked: bool = False
    note: str = ""
    empty: str = "Nothing was recorded."

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Colour, style and text of what stands in the legend."""
        bars = [(bars.colour, "bar", bars.key) for bars in self.bars if bars.key]
        return bars + [(line.colour, line.style, line.key) for line in self.lines if line.key]


def chart_svg(chart: Chart) -> str:
    """The chart as an <svg> element for `html.whole_page`."""
    with plotting() as new_figure:
        figure = new_figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
        inside = ((_WIDTH - _LEFT - _RIGHT) / _WIDTH, (_HEIGHT - _TOP - _BOTTOM) / _HEIGHT)
        axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / _HEIGHT, *inside))
        marks = draw(axes, chart)
        # names at the same place in all charts, whatever the numbers beside them
        axes.yaxis.set_label_coords(12 / _WIDTH, 0.5, transform=figure.transFigure)
        axes.xaxis.set_label_coords(0.5, 6 / _HEIGHT, transform=figure.transFigure)
        axes.xaxis.label.set_verticalalignment("bottom")
        axes.yaxis.label.set_verticalalignment("center")
        return inline_svg(figure, chart.heading, chart.said, marks)


def write_charts(charts: Sequence[Chart], path: str | Path, columns: int = 1, beside: bool = False) -> None:
    """Write charts as one PNG image, in rows of `columns`; the legend is in the axes, or beside them for long ones."""
    rows = math.ceil(len(charts) / columns)
    scale = 1.4 if len(charts) == 1 else 1.0
    longest = min(30, max(len(chart.legend) for chart in charts)) * 18 if beside else 0
    wide = scale * columns * (_WIDTH + (100 if beside else 0))
    with plotting() as new_figure:
        size = wide / 72, max(scale * rows * (_HEIGHT + 20), longest) / 72
        figure = new_figure(figsize=size, layout="constrained")
        for place, chart in enumerate(charts):
            axes = figure.add_subplot(rows, columns, place + 1)
            draw(axes, chart)
            title(axes, chart.heading)
            if not (chart.lines or chart.bars):
                say_nothing(axes, chart.empty)
            elif chart.legend:
                _legend(axes, chart, beside)
        if len(charts) == 1 and charts[0].note:
            figure.supxlabel(charts[0].note, fontsize=TEXT - 3, color=LIGHT["muted"])
        save_png(figure, path)


@contextmanager
def plotting() -> Iterator[Callable[..., "Figure"]]:
    """What makes a figure of its own, without pyplot; names of classes are text in it, whatever they hold."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False, "svg.fonttype": "none"}):
        yield Figure


def save_png(figure: "Figure", path: str | Path) -> None:
    """Write a figure with a margin on white."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.set(w_pad=0.12, h_pad=0.12)  # type: ignore[call-arg]
    figure.savefig(path, dpi=_DPI, facecolor="white")


def title(axes: "Axes", text: str) -> None:
    """A heading at the left."""
    axes.set_title(text, loc="left", fontsize=TEXT + 2, fontweight="bold", color=LIGHT["ink"], pad=9)


def say_nothing(axes: "Axes", text: str) -> None:
    """Say in the middle why nothing is drawn."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=TEXT, color=LIGHT["muted"])


def smoothed(values: Floats) -> Floats:
    """Centred moving average of values `[N]`, over what there is of the window at both ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at, half = np.arange(len(values)), max(1, len(values) // (2 * _SMOOTH))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def thinned(points: Floats) -> Floats:
    """Points `[N, 2]` of a line without those that a chart has no room for: both ends, peaks and valleys stay."""
    if len(points) <= 2 * _STRETCHES + 2:
        return points
    kept = {0, len(points) - 1}
    for part in np.array_split(np.arange(len(points)), _STRETCHES):
        kept |= {int(part[points[part, 1].argmin()]), int(part[points[part, 1].argmax()])}
    return points[sorted(kept)]


def draw(axes: "Axes", chart: Chart) -> dict[str, tuple[str, str]]:
    """Draw a chart without heading and legend; class and title of its lines and bars by their gid, see `svg.inline_svg`."""
    _dress(axes, chart)
    marks: dict[str, tuple[str, str]] = {}
    base = np.zeros(max((len(bars.values) for bars in chart.bars), default=0))
    for group, bars in enumerate(chart.bars):
        for place, value in enumerate(bars.values):
            if math.isfinite(value):
                gid = f"bar-{group}-{place}"
                marks[gid] = ("bar", bars.titles[place])
                _bar(axes, chart, group, place, float(base[place]), float(value)).set_gid(gid)
                base[place] += value if chart.stacked else 0
    for index, line in enumerate(chart.lines):
        gid = f"line-{index}"
        marks[gid] = ("line", line.title)
        _line(axes, chart, line).set_gid(gid)
    return marks


def _dress(axes: "Axes", chart: Chart) -> None:
    """Ranges, numbers, names and a quiet grid."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    axes.set(xlim=(chart.x.low, chart.x.high), ylim=(chart.y.low, chart.y.high), axisbelow=True)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=TEXT, labelcolor=LIGHT["muted"], length=0, pad=7)
    axes.tick_params(bottom=False, left=False)
    for of, axis in ((axes.xaxis, chart.x), (axes.yaxis, chart.y)):
        of.set_label_text(axis.name, fontsize=TEXT, color=LIGHT["ink"])
        of.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=axis.whole))
        of.set_major_formatter(FuncFormatter(lambda value, _, text=axis.text: text(value)))
        of.grid(True, color=LIGHT["grid"], linewidth=1, clip_on=False, solid_capstyle="butt")
    if chart.labels:
        every = max(1, math.ceil(len(chart.labels) / 10))
        axes.xaxis.set_major_locator(FixedLocator([k + 0.5 for k in range(0, len(chart.labels), every)]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: chart.labels[int(value)]))
        axes.xaxis.grid(False)


def _bar(axes: "Axes", chart: Chart, group: int, place: int, base: float, value: float) -> Any:
    """One bar over the middle of its place, or one of several side by side, with a little ground between them."""
    bars, span = chart.bars[group], chart.x.high - chart.x.low
    step = span / max(1, len(bars.values))
    groups = 1 if chart.stacked else len(chart.bars)
    share = (0.82 if chart.stacked else 0.76) / groups
    left = chart.x.low + step * (place + 0.5 + share * ((0 if chart.stacked else group) - groups / 2))
    seam = span / (_WIDTH - _LEFT - _RIGHT)  # one unit of the page
    height = min(base + value, chart.y.high) - base
    width = max(step * share - seam, seam / 2)
    return axes.bar(left, height, width, base, align="edge", color=LIGHT[bars.colour], linewidth=0, clip_on=False)[0]


def _line(axes: "Axes", chart: Chart, line: Line) -> Any:
    points = np.stack([np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)], 1) if len(line.x) else np.zeros((0, 2))
    points = thinned(points[np.isfinite(points).all(1)])
    dots = line.dots or ("all" if len(points) == 1 else "")
    x, y = (points if dots else _within(points, chart.y)).T
    return axes.plot(
        x,
        y,
        color=LIGHT[line.colour],
        marker="o" if dots else "",
        markersize=2 * DOT,
        markeredgewidth=0,
        markevery=[-1] if dots == "end" and len(x) else None,
        clip_on=False,
        **look(line.style),
    )[0]


def look(style: str) -> dict[str, Any]:
    """How matplotlib draws a style of line."""
    width = {"faint": 1.0, "thick": 3.6}.get(style, 2.0)
    dashes = {"linestyle": (0, _DASHES)} if style == "dashed" else {}
    ends = {"solid_joinstyle": "round", "solid_capstyle": "round"}
    return {
        "linewidth": width,
        "alpha": 0.28 if style == "faint" else None,
        "zorder": 3 if style == "thick" else 2,
        **ends,
        **dashes,
    }


def _within(points: Floats, axis: Axis) -> Floats:
    """The points `[N, 2]`, cut where the line between them leaves the axis: NaN stands for what lies beyond."""
    rest = 1e-6 * (axis.high - axis.low)
    for limit, beyond in ((axis.low, -1), (axis.high, 1)):
        y = points[:, 1]
        at = np.flatnonzero((y[:-1] - limit) * (y[1:] - limit) < 0)
        part = (limit - y[at]) / (y[at + 1] - y[at])
        crossing = points[at] + part[:, None] * (points[at + 1] - points[at])
        crossing[:, 1] = limit
        points = np.insert(points, at + 1, crossing, 0)
        points[beyond * (points[:, 1] - limit) > rest, 1] = np.nan
    return points


def _legend(axes: "Axes", chart: Chart, beside: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=LIGHT[colour]) if style == "bar" else Line2D([], [], color=LIGHT[colour], **look(style))
        for colour, style, _ in chart.legend
    ]
    texts = [text for _, _, text in chart.legend]
    options: dict[str, Any] = {"fontsize": TEXT - 2, "labelcolor": LIGHT["ink"], "frameon": False, "handlelength": 2.4}
    if beside:
        columns = 1 + (len(texts) > 30)
        axes.figure.legend(handles, texts, loc="outside right upper", ncols=columns, **options)
    else:
        axes.legend(handles, texts, loc="best", **options)
