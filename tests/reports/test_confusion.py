"""The confusion matrix says the same as a table and as an image."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from report_pages import Page, checked_image, random_scores
from rotanext.evaluation.metrics import Evidence, Predictions, Truths, evaluate
from rotanext.reports.confusion import confusion_table, largest_classes, plot_confusion


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_matrix_says_its_counts(evidence: Evidence) -> None:
    scores = evidence.score()
    page = Page(confusion_table(scores))
    titles = [cell["title"] for cell in page.all("td") if cell.get("title")]
    assert len(titles) == int((scores.confusion > 0).sum())
    share = 100 * scores.confusion[0, 0] / scores.confusion[0].sum()
    assert f"plane, predicted as plane: {scores.confusion[0, 0]} ({share:.1f} %)" in titles


@pytest.mark.parametrize("classes", [1, 4, 20])
def test_images(classes: int, tmp_path: Path) -> None:
    plot_confusion(random_scores(classes), tmp_path / "deep" / "plot.png")
    checked_image(tmp_path / "deep" / "plot.png")


@pytest.mark.parametrize("names", [[], ["a"]], ids=len)
def test_of_nothing(names: list[str], tmp_path: Path) -> None:
    plot_confusion(evaluate(Predictions.of_images([]), Truths.of_images([]), names), tmp_path / "plot.png")
    checked_image(tmp_path / "plot.png")


def test_names_are_text_in_the_image(tmp_path: Path) -> None:
    names = ["$x$", "_a", "a_{b", "\\frac{"]
    plot_confusion(evaluate(Predictions.of_images([]), Truths.of_images([([], [], [])]), names), tmp_path / "plot.png")
    checked_image(tmp_path / "plot.png")


def test_the_table_holds_the_classes_with_most_objects() -> None:
    scores = random_scores(60, 300)
    counts = [result.npos for result in scores.at(scores.thresholds[0])]
    chosen = largest_classes(scores)
    assert len(chosen) == 40
    assert chosen == sorted(chosen)
    assert min(counts[k] for k in chosen) >= max(n for k, n in enumerate(counts) if k not in chosen)
    page = Page(confusion_table(scores))
    assert len(page.all("tr")) == 42
    assert "Only the 40 classes" in " ".join(page.text)
