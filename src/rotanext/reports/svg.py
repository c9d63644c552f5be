"""A figure of matplotlib as inline SVG for a page: small, deterministic, its text text, its colours those of the page's theme."""

import io
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from rotanext.reports.colours import LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOT = 3.0  # radius of a line's dots
TEXT = 12  # size of the letters; the width of a chart on the page is about its width in these units
_NAMES = {value: name for name, value in LIGHT.items()}
_SPACE = "{http://www.w3.org/2000/svg}"
_KEPT = ("stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "stroke-opacity", "fill-opacity")


def inline_svg(figure: "Figure", name: str, description: str, marks: Mapping[str, tuple[str, str]]) -> str:
    """The figure as an <svg> element; `name` and `description` are what screen readers say of it.

    marks: class and title (shown when pointed at) of artists by their gid. Colours must be those of `colours.LIGHT`; they become
    classes, so that the page's style sheet decides. Nothing has an id, and nothing tells the date or the library's version: equal
    figures give equal text, and several stand on one page. There is no <title> of the whole, as browsers show that wherever one
    points; its name is an aria-label.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True)
    root = ElementTree.fromstring(stream.getvalue())
    inner = "".join(_tidied(child, marks) for child in root)
    return (
        f'<svg viewBox="{root.get("viewBox")}" role="img" aria-label="{escape(name)}" font-size="{TEXT}" '
        f'stroke-linejoin="round"><desc>{escape(description)}</desc>{inner}</svg>'
    )


def _tidied(element: ElementTree.Element, marks: Mapping[str, tuple[str, str]]) -> str:
    """What is seen of an element; groups that are not marked give way to what is in them."""
    tag = element.tag.removeprefix(_SPACE)
    if tag == "g":
        inner = "".join(_tidied(child, marks) for child in element)
        mark = marks.get(element.get("id", ""))
        if mark is None or not inner:
            return inner
        title = f"<title>{escape(mark[1])}</title>" if mark[1] else ""
        return f'<g class="{mark[0]}">{title}{inner}</g>'
    style = dict(part.split(": ", 1) for part in element.get("style", "").split("; ") if part)
    look = _look(style)
    place = {key: _short(element.get(key, "")) for key in ("d", "x", "y", "transform")}
    if tag == "path" and look:
        return f'<path d="{place["d"]}"{look}/>'
    if tag == "use":  # the only marker is a dot
        return f'<circle cx="{place["x"]}" cy="{place["y"]}" r="{DOT:g}"{look}/>'
    if tag == "text":
        anchor = style.get("text-anchor", "start")
        turned = "" if place["transform"].startswith("rotate(-0 ") else f' transform="{place["transform"]}"'
        return f'<text x="{place["x"]}" y="{place["y"]}" text-anchor="{anchor}"{turned}{look}>{escape(element.text or "")}</text>'
    return ""


def _look(style: Mapping[str, str]) -> str:
    """The attributes for a shape's colour and line; none for one that cannot be seen."""
    colours = {letter: style.get(key, "none") for letter, key in (("s", "stroke"), ("f", "fill"))}
    seen = [f"{letter}-{_NAMES[colour]}" for letter, colour in colours.items() if colour != "none"]
    kept = "".join(f' {key}="{_short(style[key])}"' for key in _KEPT if key in style)
    return f' class="{" ".join(seen)}"{kept}' if seen else ""


def _short(text: str) -> str:
    """One digit after the point, two below one, and no space beside letters: `M 1.25 2 L 3 0.125` as `M1.2 2L3 0.12`."""
    text = re.sub(r"-?\d+\.\d+", _rounded, text)
    return re.sub(r"\s*([A-Za-z])\s+", r"\1", text).strip()


def _rounded(found: re.Match[str]) -> str:
    value = float(found[0])
    return f"{value:.{2 if abs(value) < 1 else 1}f}".rstrip("0").rstrip(".")
