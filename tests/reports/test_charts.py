"""Charts: what is described is drawn, once for pages and for files, without touching pyplot's state."""

import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from report_pages import Page, checked_image
from rotanext.reports.charts import Axis, Bars, Chart, Line, chart_svg, number, percent, smoothed, thinned, write_charts


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


WAVE = Line(np.arange(9.0), np.array([0, 1, 2, 3, np.nan, 2, 1, 0, 1.0]), "0", "a wave", "wave")
LINES = Chart("Lines", "A wave.", Axis(0, 8, "x"), Axis(0, 4, "y"), [WAVE])
BARS = Chart(
    "Bars", "Three bars.", Axis(0, 3, "x"), Axis(0, 1, "y", percent), bars=[Bars([0.5, np.nan, 1.0], "1", ["a", "b", "c"], "bars")],
    labels=["< 1", "1–2", "≥ 2"],
)  # fmt: skip


def points(svg: str, colour: str) -> list[tuple[float, float]]:
    """The points of the lines of a colour, in units of the page."""
    paths = re.findall(rf'<path d="([^"]+)" class="s-{colour}"', svg)
    return [(float(x), float(y)) for path in paths for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (1500, "1,500"), (0.25, "0.25"), (1e-5, "1e-5"), (2.5e7, "2.5e7")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_line_is_where_its_numbers_are() -> None:
    # the axes go from (60, 256) to (460, 12); the undefined point is passed over
    expected = [(60 + 50 * x, 256 - 61 * y) for x, y in zip(WAVE.x, WAVE.y, strict=True) if np.isfinite(y)]
    found = points(chart_svg(LINES), "0")
    assert {found[0], found[-1]} == {expected[0], expected[-1]}
    assert set(found) <= set(expected)  # points on a straight line may be left out


def test_what_lies_beyond_the_axis_is_cut_off() -> None:
    line = Line(np.array([0.0, 1, 2]), np.array([1.0, 9, 1]), "3", "spike")
    found = points(chart_svg(replace(LINES, lines=[line])), "3")
    assert found == [(60, 195), (78.8, 12), (141.2, 12), (160, 195)]


def test_one_point_has_a_dot_and_the_end_has_one_where_it_is_wanted() -> None:
    one = chart_svg(replace(LINES, lines=[Line(np.array([4.0]), np.array([2.0]), "2", "one")]))
    assert re.findall(r'<circle cx="260" cy="134" r="3" class="f-2"', one)
    assert chart_svg(replace(LINES, lines=[replace(WAVE, dots="end")])).count("<circle") == 1
    assert chart_svg(replace(LINES, lines=[replace(WAVE, dots="all")])).count("<circle") == 8


def test_bars_stand_side_by_side_or_on_each_other() -> None:
    def boxes(chart: Chart) -> list[tuple[float, ...]]:
        found = [re.findall(r"-?[\d.]+", path) for path in re.findall(r'<g class="bar">.*?<path d="([^"]+)"', chart_svg(chart))]
        return [(min(v[0::2]), max(v[0::2]), min(v[1::2]), max(v[1::2])) for v in ([float(x) for x in part] for part in found)]

    other = Bars([0.25, 0.25, 0.25], "2", ["d", "e", "f"])
    one, two = boxes(BARS)
    assert (one[2:], two[2:]) == ((134, 256), (12, 256))
    beside = boxes(replace(BARS, bars=[*BARS.bars, other]))
    assert len(beside) == 5
    assert beside[0][1] < beside[2][0]
    assert all(box[3] == 256 for box in beside)
    above = boxes(replace(BARS, bars=[*BARS.bars, other], stacked=True))
    assert above[2][:2] == above[0][:2]
    assert above[2][2:] == (73, 134)
    assert above[4][2] == 12  # what would leave the axis ends there


def test_bars_without_labels_are_steps_of_the_axis() -> None:
    """Lines over them are in the numbers of that axis."""
    bars = Bars([0.5, 0.25, 1.0, 0.0], "1", ["a", "b", "c", "d"])
    diagonal = Line(np.array([0.0, 0.4]), np.array([0.0, 1.0]), "0", "a line")
    svg = chart_svg(Chart("", "", Axis(0, 0.4), Axis(0, 1), [diagonal], [bars]))
    paths = re.findall(r'<g class="bar">.*?<path d="([^"]+)"', svg)
    found = [[float(x) for x in re.findall(r"[ML](-?[\d.]+)", path)] for path in paths]
    middles = [(min(x) + max(x)) / 2 for x in found]
    assert middles == pytest.approx([60 + 100 * (k + 0.5) for k in range(len(middles))], abs=1)
    assert len(middles) >= 3
    assert points(svg, "0") == [(60, 256), (460, 12)]
    assert {"0", "0.1", "0.2", "0.3", "0.4"} <= set(Page(svg).text)


def test_titles_and_texts_are_there() -> None:
    page = Page(chart_svg(replace(BARS, lines=[replace(WAVE, title="<b>")])))
    said = "".join(page.text)
    assert all(text in said for text in ("a", "c", "<b>", "< 1", "1–2", "≥ 2", "40%", "Three bars."))
    assert len(page.all("title")) == 3
    assert page.all("svg")[0]["aria-label"] == "Bars"


def test_many_labels_are_thinned() -> None:
    labels = [f"label{k}" for k in range(95)]
    svg = chart_svg(Chart("", "", Axis(0, 95), Axis(0, 1), bars=[Bars([1.0] * 95, "0", labels)], labels=labels))
    assert re.findall(r">label(\d+)</text>", svg) == [str(k) for k in range(0, 95, 10)]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 402, 403, 100_000])
def test_thinning_keeps_ends_peaks_and_valleys(count: int) -> None:
    rng = np.random.default_rng(count)
    whole = np.stack([np.arange(count), rng.normal(size=count)], 1)
    thin = thinned(whole)
    assert len(thin) <= min(count, 402)
    assert (np.diff(thin[:, 0]) > 0).all()
    if count:
        np.testing.assert_array_equal(thin[[0, -1]], whole[[0, -1]])
        assert (thin[:, 1].min(), thin[:, 1].max()) == (whole[:, 1].min(), whole[:, 1].max())


@pytest.mark.parametrize("count", [0, 1, 2, 49, 50, 1000])
def test_smoothing_is_the_mean_of_what_there_is_about(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    half = max(1, count // 50)
    slow = [values[max(0, k - half) : k + half + 1].mean() for k in range(count)]
    np.testing.assert_allclose(smoothed(values), slow, atol=1e-12)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("key", ["wave", "$x_{", "_hidden", "long " * 8])
def test_files(key: str, beside: bool, tmp_path: Path) -> None:
    write_charts([replace(LINES, lines=[replace(WAVE, key=key)] * 12, note="small")], tmp_path / "deep/one.png", beside=beside)
    checked_image(tmp_path / "deep/one.png")
    write_charts([LINES, BARS, replace(LINES, lines=[])], tmp_path / "three.png", columns=2)
    checked_image(tmp_path / "three.png")


def test_no_global_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_charts([LINES], tmp_path / "plot.png")
    chart_svg(LINES)
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()


def test_the_training_loop_needs_neither_reports_nor_a_plotting_library() -> None:
    """And the plotting library is imported where something is drawn, not with the reports: in one fresh interpreter."""
    code = """if True:
        import sys, rotanext.training.loop
        assert not [name for name in sys.modules if name.startswith(("matplotlib", "rotanext.reports"))]
        import rotanext.training.train, rotanext.reports.run, rotanext.reports.labels
        assert "matplotlib" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
