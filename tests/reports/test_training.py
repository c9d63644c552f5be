"""A run's curves, whatever its rows hold."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from report_pages import Page, checked_image
from rotanext.reports.charts import smoothed
from rotanext.reports.training import plot_training, training_charts, training_section


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _rows(steps: int) -> list[dict]:
    keys = ("loss", "loss_cls", "loss_box", "lr", "grad_norm")
    return [{"step": k, "epoch": k / 10, **dict.fromkeys(keys, 1 / k)} for k in range(1, steps + 1)]


TRAINING = {
    "nothing": [],
    "one_step": _rows(1),
    "no_validation": _rows(300),
    "validation": [*_rows(50), {"step": 50, "epoch": 1, "map50": 0.5, "map75": 0.3, "map50_95": 0.25}],
    "undefined": [*_rows(9), {"step": 9, "loss": float("nan"), "grad_norm": float("inf"), "map50": None}],
    "only_validation": [{"step": 5, "epoch": 1, "map50": 0.5, "map75": 0.3, "map50_95": None}],
    "zero_losses": [{"step": k, "loss": 0.0, "lr": 0.0} for k in range(5)],
    "other_rows": [{"event": "resumed"}, *_rows(3)],
}


@pytest.mark.parametrize("rows", TRAINING.values(), ids=TRAINING.keys())
def test_training_plots(rows: list[dict], tmp_path: Path) -> None:
    plot_training(rows, tmp_path / "plot.png")
    checked_image(tmp_path / "plot.png")
    page = Page(training_section(rows))
    assert len(page.all("h3")) == 4
    assert all(chart["aria-label"] for chart in page.all("svg"))


def test_the_file_and_the_page_show_the_same() -> None:
    loss, validation, rate, norm = training_charts([*TRAINING["validation"], {"step": 20, "grad_norm": 1e9}])
    faint, smooth = loss.lines[0], loss.lines[3]
    assert (faint.style, smooth.style) == ("faint", "")
    np.testing.assert_array_equal(faint.x, np.arange(1, 51))
    np.testing.assert_array_equal(smooth.y, smoothed(faint.y))
    assert [line.key for line in validation.lines] == ["mAP50, last 50.0 %", "mAP75, last 30.0 %", "mAP50:95, last 25.0 %"]
    assert rate.lines[0].style == ""
    assert norm.y.high < 2e9  # the spike is beyond the quantile only where there are many more values
    assert "total, last" in loss.said


def test_skipped_steps_are_said() -> None:
    assert "3 steps were skipped" in training_section([{"step": 1, "loss": 1.0, "skipped": 3}])
