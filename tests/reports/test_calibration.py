"""The charts of calibration say what the numbers say."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from report_pages import Page, checked_image
from rotanext.evaluation.calibration import Calibration, calibration
from rotanext.reports.calibration import counts_chart, reliability_chart
from rotanext.reports.charts import chart_svg, write_charts


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(steps: int = 15, count: int = 500) -> Calibration:
    rng = np.random.default_rng(0)
    scores = rng.random(count)
    return calibration(scores, np.where(rng.random(count) < scores**2, 1, -1).astype(np.int8), 0.5, steps)


def test_bars_end_at_the_share_and_the_gap_at_the_mean_score() -> None:
    of = calibration(np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.3, 0.7]), np.array([1, -1, -1, -1, 1, 1, 0], np.int8), 0.5, 5)
    chart = reliability_chart(of)
    kept, false, beyond = (list(bars.values) for bars in chart.bars)
    nan = math.nan
    assert kept == pytest.approx([nan, 0.3, nan, nan, 0.25], nan_ok=True)
    assert false == pytest.approx([nan, nan, nan, nan, 0.65], nan_ok=True)  # a quarter came true of 0.9
    assert beyond == pytest.approx([nan, 0.7, nan, nan, nan], nan_ok=True)  # all came true of 0.3
    assert chart.bars[0].titles[4] == "score 0.80 to 1.00: 25.0 % of 4 are true positives, mean score 90.0 %"
    error = (4 * 0.65 + 2 * 0.7) / 6
    assert f"Expected calibration error: {100 * error:.1f} %." in chart.note
    assert chart.stacked


def test_counts_are_those_of_the_steps() -> None:
    of = drawn()
    right, wrong = counts_chart(of).bars
    assert (list(right.values), list(wrong.values)) == (of.right.tolist(), of.wrong.tolist())
    assert right.titles[7] == f"score 0.47 to 0.53: {of.right[7]:,} true positives"


@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_number_of_detections_can_be_drawn(count: int, tmp_path: Path) -> None:
    charts = [reliability_chart(drawn(count=count)), counts_chart(drawn(count=count))]
    write_charts(charts, tmp_path / "c.png", columns=2)
    checked_image(tmp_path / "c.png")
    for chart in charts:
        said = Page(chart_svg(chart)).text
        assert {"0", "0.2", "0.4", "0.6", "0.8", "1"} <= set(said)
