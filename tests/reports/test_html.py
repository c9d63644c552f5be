"""The parts of a page: text stays text, everything can be reached."""

import numpy as np

from report_pages import Page
from rotanext.reports.charts import Axis, Chart, Line
from rotanext.reports.html import cards, facts, figure, pair, paragraph, table, whole_page

HOSTILE = "<script>'\"&"


def test_text_stays_text() -> None:
    line = Line(np.arange(2.0), np.arange(2.0), "0", HOSTILE, HOSTILE, "dashed")
    chart = Chart(HOSTILE, HOSTILE, Axis(0, 1), Axis(0, 1), [line], note=HOSTILE)
    parts = [
        cards([(HOSTILE, HOSTILE, HOSTILE)]), table(HOSTILE, [HOSTILE] * 2, [[HOSTILE] * 2], [HOSTILE] * 2),
        facts(HOSTILE, {HOSTILE: HOSTILE}),
        figure(chart), paragraph(HOSTILE), paragraph(HOSTILE, muted=True),
    ]  # fmt: skip
    page = Page(whole_page(HOSTILE, "<h1>x</h1>", [("a", HOSTILE, pair(*parts))], ""))
    assert page.all("script") == []
    assert "".join(page.text).count(HOSTILE) == 3 + 7 + 3 + 5 + 2 + 3  # cards, table, facts, figure, paragraphs, page


def test_a_legend_shows_how_a_line_looks() -> None:
    line = Line(np.arange(2.0), np.arange(2.0), "0", "t", "name", "dashed")
    page = Page(figure(Chart("h", "s", Axis(0, 1), Axis(0, 1), [line, Line(line.x, line.y, "1", "not in it")])))
    assert [mark["class"] for mark in page.all("i")] == ["key-0 dashed"]


def test_nothing_to_draw_is_said() -> None:
    page = Page(figure(Chart("h", "s", Axis(0, 1), Axis(0, 1), empty="There was none.")))
    assert page.all("svg") == []
    assert page.text == ["h", "There was none."]


def test_themes_and_safety() -> None:
    html = whole_page("t", "", [], "")
    assert "prefers-color-scheme:dark" in html
    assert "color-scheme:light dark" in html
    assert "default-src 'none'" in html
    assert len(html) < 12_000
