"""The sections about a detector: their charts say what the scores say."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from report_pages import Page, checked_image, random_scores
from rotanext.evaluation.metrics import Evidence, Predictions, Truths, evaluate
from rotanext.evaluation.scores import curve
from rotanext.reports.charts import shown
from rotanext.reports.evaluation import evaluation_sections, plot_precision_recall, precision_recall_chart


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("classes", [1, 4, 20, 60])
def test_precision_recall_files(classes: int, tmp_path: Path) -> None:
    plot_precision_recall(random_scores(classes, 300), tmp_path / "deep" / "plot.png")
    checked_image(tmp_path / "deep" / "plot.png")


@pytest.mark.parametrize("names", [[], ["a"]], ids=len)
def test_precision_recall_of_nothing(names: list[str], tmp_path: Path) -> None:
    plot_precision_recall(evaluate(Predictions.of_images([]), Truths.of_images([]), names), tmp_path / "plot.png")
    checked_image(tmp_path / "plot.png")


def test_curves_are_the_scores() -> None:
    scores = random_scores(4)
    results = sorted(scores.at(0.5), key=lambda result: -result.ap_area)
    mean, *lines = precision_recall_chart(scores).lines
    assert mean.key == f"mean of 4 classes {shown(scores.map(0.5))}"
    np.testing.assert_allclose(mean.y, np.mean([curve(result, mean.x) for result in results], 0))
    for result, line in zip(results, lines, strict=True):
        assert line.key == f"{result.name} {shown(result.ap_area)}"
        assert line.x[-1] == result.recall[-1]
        assert line.y[-1] > 0
        np.testing.assert_array_equal(line.y, curve(result, line.x))


@pytest.mark.parametrize(("classes", "lines"), [(1, 1), (2, 3), (20, 21), (60, 41)])
def test_a_chart_holds_so_many_classes(classes: int, lines: int) -> None:
    chart = precision_recall_chart(random_scores(classes, 40 * classes))
    assert len(chart.lines) == lines
    assert ("The 40 classes with most objects" in chart.note) == (classes > 40)
    assert {line.style for line in chart.lines[11:21]} <= {"dashed"}


def test_every_bar_says_what_it_is(evidence: Evidence) -> None:
    sections = {name: html for name, _, html in evaluation_sections(evidence.score(), evidence)}
    titles = {name: [t for t in Page(html).text if ": " in t] for name, html in sections.items()}
    assert any("mAP75" in title and title.startswith("16–32 px") for title in titles["shapes"])
    assert any(title.startswith("0° to 1°: ") or title.startswith("0° to 5°: ") for title in titles["angles"])
    assert any(title.startswith("score 0.53 to 0.60: ") and "true positives" in title for title in titles["scores"])
    assert Page(sections["scores"]).all("path")
