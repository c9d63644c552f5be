"""Images come out whole, at a readable size, from full and from empty input, without touching pyplot's state."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest

from rotanext.evaluation.metrics import Predictions, Scores, Truths, evaluate
from rotanext.reports.plots import plot_confusion, plot_precision_recall, plot_training


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _report(classes: int, objects: int = 80) -> Scores:
    rng = np.random.default_rng(classes)
    corners = rng.uniform(0, 1000, (objects, 1, 2)) + np.array([[0, 0], [30, 0], [30, 20], [0, 20]])
    labels = rng.integers(0, max(classes, 1), objects)
    guesses = np.where(rng.random(objects) < 0.8, labels, rng.integers(0, max(classes, 1), objects))
    kept = rng.random(objects) < 0.8
    moved = corners[kept] + rng.normal(0, 3, (int(kept.sum()), 1, 2))
    predictions = Predictions.of_images([(moved, rng.random(len(moved)), guesses[kept])])
    truths = Truths.of_images([(corners, labels, np.zeros(objects))])
    return evaluate(predictions, truths, [f"quite-a-long-name-{k}" for k in range(classes)])


def _check(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    assert 400 < image.shape[0] < 4000
    assert 400 < image.shape[1] < 4000
    assert image.std() > 3  # something is drawn
    assert (image[0] == 255).all()  # and nothing is cut off at the edges
    assert (image[:, -1] == 255).all()
    return image


@pytest.mark.parametrize("draw", [plot_precision_recall, plot_confusion], ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("classes", [1, 4, 20])
def test_evaluation_plots(draw, classes: int, tmp_path: Path) -> None:
    draw(_report(classes), tmp_path / "deep" / "plot.png")
    _check(tmp_path / "deep" / "plot.png")


@pytest.mark.parametrize("draw", [plot_precision_recall, plot_confusion], ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("names", [[], ["a"]], ids=len)
def test_empty_reports(draw, names: list[str], tmp_path: Path) -> None:
    draw(evaluate(Predictions.of_images([]), Truths.of_images([]), names), tmp_path / "plot.png")
    _check(tmp_path / "plot.png")


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
    _check(tmp_path / "plot.png")


def test_no_global_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_confusion(_report(3), tmp_path / "plot.png")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()
