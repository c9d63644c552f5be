"""Figures as inline SVG: small, the same every time, coloured by the page, nothing in them that a page must not hold."""

import os
import re
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path

import numpy as np

from report_pages import Page
from rotanext.reports.charts import Axis, Bars, Chart, Line, chart_svg
from rotanext.reports.colours import LIGHT

NOISE = np.random.default_rng(0).random(5000)
CHART = Chart(
    "Name <&>",
    'Description "quoted"',
    Axis(0, 3, "x < y & z"),
    Axis(0, 1, "y"),
    [Line(np.linspace(0, 3, 5000), NOISE, "ink", "line", style="faint"), Line(np.arange(4.0), NOISE[:4], "4", "d", style="dashed")],
    [Bars([0.1, 0.2, 0.3], "1", ["<a>", "&", '"'])],
    ["a", "b", "c"],
)


def test_only_what_is_needed_is_left() -> None:
    svg = chart_svg(CHART)
    page = Page(svg)
    assert {tag for tag, _ in page.tags} <= {"svg", "desc", "title", "g", "path", "circle", "text"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not names & {"id", "style", "clip-path", "xmlns"}
    assert "url(" not in svg
    assert not re.search(r"#[0-9a-f]{3,6}", svg)  # colours are the page's
    assert not re.search(r"\d\.\d{3}", svg)
    assert len(svg) < 20_000
    xml.dom.minidom.parseString(svg)


def test_colours_are_classes_of_the_page() -> None:
    classes = [name for attributes in Page(chart_svg(CHART)).tags for name in (attributes[1].get("class") or "").split()]
    assert {name[2:] for name in classes if name[1] == "-"} == {"ink", "4", "1", "grid", "muted"} <= set(LIGHT)


def test_looks_are_kept() -> None:
    svg = chart_svg(CHART)
    assert re.search(r'class="s-ink"[^>]*stroke-opacity="0.28"', svg)
    assert re.search(r'class="s-4" stroke-width="2" stroke-dasharray="6,4"', svg)


def test_names_are_text_and_said() -> None:
    page = Page(chart_svg(CHART))
    (svg,) = page.all("svg")
    assert (svg["role"], svg["aria-label"], svg["viewbox"]) == ("img", "Name <&>", "0 0 480 300")
    assert 'Description "quoted"' in page.text
    assert {"<a>", "&", '"', "x < y & z", "line"} <= set(page.text)


def test_equal_charts_give_equal_text() -> None:
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_svg as t; sys.stdout.buffer.write(t.chart_svg(t.CHART).encode())"
    paths = [str(Path(name or "").parent) for name in (__file__, sys.modules["report_pages"].__file__)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    other = subprocess.run([sys.executable, "-c", code, *paths], env=environment, capture_output=True, check=True)
    assert other.stdout.decode() == chart_svg(CHART) == chart_svg(CHART)
