"""Charts as inline SVG for a page: lines and bars, text escaped, colours by the page's style sheet (classes c0, c1, ...)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 12, 44
_MOST_POINTS = 400
COLOURS = 10


def percent(value: float) -> str:
    """0.5 as 50%."""
    return f"{100 * value:.0f}%"


def number(value: float) -> str:
    """A number as short as an axis needs it: 1,500, 0.25, 1e-05."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: its range, its name, and how its numbers are written."""

    low: float
    high: float
    name: str = ""
    text: Callable[[float], str] = number

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers in the range."""
        span = self.high - self.low
        rough = span / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Line:
    """Points x, y `[N]` (not finite: left out), with the colour's number and the text shown when it is pointed at."""

    x: Floats
    y: Floats
    colour: int | str
    name: str
    style: str = ""  # faint, thick, dashed
    dots: bool = False


@dataclass(frozen=True)
class Bars:
    """One value for each label of a chart (NaN: none), with the colour's number and a text for each."""

    values: Sequence[float]
    colour: int | str
    name: str
    texts: Sequence[str]


def line_chart(label: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """A line chart; `label` is what screen readers say of it."""
    parts = [_frame(x, y, x.ticks())]
    for line in lines:
        points = _thin(_finite(line.x, line.y))
        if not len(points):
            continue
        places = [f"{_x(px, x):.1f},{_y(py, y):.1f}" for px, py in points]
        classes = f"line c{line.colour} {line.style}".strip()
        title = f"<title>{escape(line.name)}</title>"
        parts.append(f'<g class="{classes}">{title}<polyline points="{" ".join(places)}"/>')
        if line.dots or len(points) == 1:
            parts += [f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3"/>' for p in places]
        parts.append("</g>")
    return _svg(label, parts)


def bar_chart(label: str, labels: Sequence[str], y: Axis, groups: Sequence[Bars], x_name: str = "", stacked: bool = False) -> str:
    """Bars side by side (or stacked) over each label; `label` is what screen readers say of the whole."""
    x = Axis(0, max(1, len(labels)), x_name)
    parts = [_frame(x, y, [])]
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    wide = slot * 0.82 if stacked else slot * 0.76 / max(1, len(groups))
    every = max(1, math.ceil(len(labels) / 10))
    for k, text in enumerate(labels):
        left = _LEFT + k * slot + (slot - (wide if stacked else wide * len(groups))) / 2
        base = 0.0
        for g, bars in enumerate(groups):
            value = float(bars.values[k])
            if not math.isfinite(value):
                continue
            top, bottom = _y(min(base + value, y.high), y), _y(base, y)
            at = left if stacked else left + g * wide
            parts.append(
                f'<rect class="bar c{bars.colour}" x="{at:.1f}" y="{top:.1f}" width="{max(wide - 1, 0.5):.1f}" '
                f'height="{max(bottom - top, 0):.1f}"><title>{escape(bars.texts[k])}</title></rect>'
            )
            base += value if stacked else 0
        if k % every == 0:
            parts.append(_text(_LEFT + (k + 0.5) * slot, HEIGHT - _BOTTOM + 17, text, "middle"))
    return _svg(label, parts)


def over_bars(chart: str, x: Axis, y: Axis, line: Line) -> str:
    """A bar chart with a line over it."""
    points = [f"{_x(px, x):.1f},{_y(py, y):.1f}" for px, py in _finite(line.x, line.y)]
    extra = (
        f'<g class="line c{line.colour} {line.style}"><title>{escape(line.name)}</title><polyline points="{" ".join(points)}"/></g>'
    )
    return chart.removesuffix("</svg>") + extra + "</svg>"


def _finite(x: Floats, y: Floats) -> Floats:
    points = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], 1) if len(x) else np.zeros((0, 2))
    return points[np.isfinite(points).all(1)]


def _thin(points: Floats) -> Floats:
    """At most _MOST_POINTS of them, both ends among them."""
    if len(points) <= _MOST_POINTS:
        return points
    return points[np.unique(np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(np.int64))]


def _x(value: float, axis: Axis) -> float:
    return _LEFT + (value - axis.low) / (axis.high - axis.low) * (WIDTH - _LEFT - _RIGHT)


def _y(value: float, axis: Axis) -> float:
    inside = min(max(value, axis.low), axis.high)
    return HEIGHT - _BOTTOM - (inside - axis.low) / (axis.high - axis.low) * (HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _frame(x: Axis, y: Axis, ticks: Sequence[float]) -> str:
    """Grid, numbers and names of both axes."""
    parts = ['<g class="grid" aria-hidden="true">']
    for value in y.ticks():
        at = _y(value, y)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(_LEFT - 6, at + 4, y.text(value), "end"))
    for value in ticks:
        at = _x(value, x)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(_text(at, HEIGHT - _BOTTOM + 17, x.text(value), "middle"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 6, x.name, "middle", ' class="axis"'))
    height = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(_text(12, height, y.name, "middle", f' class="axis" transform="rotate(-90 12 {height:.0f})"'))
    return "".join(parts) + "</g>"


def _svg(label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
