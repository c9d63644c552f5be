"""What an evaluation found: average precision, operating points, JSON and the table."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rotanext.evaluation.calibration import calibration
from rotanext.evaluation.metrics import THRESHOLDS, Predictions, Truths, evaluate
from rotanext.evaluation.scores import ClassResult, Scores, TooLarge, average_precision, curve
from squares import found, random_scene, real, square

A, B = square(0), square(100)
NO_CALIBRATION = calibration(np.zeros(0), np.zeros(0, np.int8), 0.5)


def test_average_precision_by_hand() -> None:
    # Three objects; right, wrong, right: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    recall, precision = np.array([1, 1, 2]) / 3, np.array([1, 1 / 2, 2 / 3])
    assert average_precision(recall, precision, "area") == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    # Recalls 0, .1, .2, .3 see precision 1; .4, .5, .6 see 2/3; the rest nothing.
    assert average_precision(recall, precision, "voc07") == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    with pytest.raises(ValueError, match="expected 'area' or 'voc07'"):
        average_precision(recall, precision, "coco")  # type: ignore[arg-type]


def test_voc07_rounds_its_recalls_as_the_devkit_does() -> None:
    # Recall 3/10 is just below numpy's 0.1 * 3: levels 0, 0.1, 0.2 only.
    assert average_precision(np.array([3 / 10]), np.ones(1), "voc07") == pytest.approx(3 / 11)


def test_best_f1_is_an_operating_point() -> None:
    # At score 0.5 one is right and two are wrong, whichever comes first: no threshold keeps only the right one.
    detections = [found((A, 0.9, 0), (B, 0.5, 0), (square(50), 0.5, 0), (square(70), 0.5, 0))]
    scores = evaluate(Predictions.of_images(detections), Truths.of_images([real((A, 0, 0), (B, 0, 0))]), ["a"])
    best = scores.at()[0].best_f1()
    assert best == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "score": 0.9})


def _empty() -> tuple[Predictions, Truths, list[str]]:
    return Predictions.of_images([]), Truths.of_images([]), []


def _no_objects() -> tuple[Predictions, Truths, list[str]]:
    return Predictions.of_images([found((A, 0.9, 0))]), Truths.of_images([real()]), ["a", "b"]


def _no_detections() -> tuple[Predictions, Truths, list[str]]:
    return Predictions.of_images([found()]), Truths.of_images([real((A, 0, 0))]), ["a", "b"]


@pytest.mark.parametrize(
    ("case", "mean"),
    [(_empty, None), (_no_objects, None), (_no_detections, 0.0)],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_empty_inputs_have_defined_results(case: Callable, mean: float | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = evaluate(*case())
        assert scores.summary() == {"map50": mean, "map75": mean, "map50_95": mean}
        json.dumps(scores.to_json(), allow_nan=False)
        console = Console(width=160, record=True)
        console.print(scores.table())
        assert "mean" in console.export_text()


def test_table_and_json_say_the_same() -> None:
    detections, objects = random_scene(np.random.default_rng(5), 2)
    scores = evaluate(Predictions.of_images(detections), Truths.of_images(objects), ["tank", "court"])
    console = Console(width=160, record=True)
    console.print(scores.table())
    text, data = console.export_text(), json.loads(json.dumps(scores.to_json(), allow_nan=False))
    for key in ("map50", "map75", "map50_95"):
        assert f"{100 * data['mean']['area'][key]:.2f}" in text
        assert f"{100 * data['mean']['voc07'][key]:.2f}" in text
    assert f"{100 * data['iou']['0.5']['classes']['tank']['ap_area']:.2f}" in text
    assert set(data["iou"]) == {f"{iou:g}" for iou in THRESHOLDS}
    assert len(data["curves"]["precision"]["tank"]) == len(data["curves"]["recall"]) == 101
    assert np.mean(data["curves"]["precision"]["tank"]) == pytest.approx(scores.at()[0].ap_area, abs=0.02)


# Five detections of a class with four objects: right, wrong, ignored, right, wrong.
RESULT = ClassResult("a", 4, np.array([1, -1, 0, 1, -1], np.int8), np.array([0.9, 0.8, 0.7, 0.6, 0.5]))


def test_ignored_detections_count_for_nothing() -> None:
    assert (RESULT.ndet, RESULT.tp, RESULT.fp) == (5, 2, 2)
    assert RESULT.recall.tolist() == [0.25, 0.25, 0.25, 0.5, 0.5]
    assert RESULT.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 2, 2 / 3, 2 / 4])
    assert RESULT.ap("area") == RESULT.ap_area == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert RESULT.ap("voc07") == RESULT.ap_voc07 == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)  # 0, .1, .2; .3, .4, .5
    assert RESULT.best_f1() == pytest.approx({"precision": 2 / 3, "recall": 0.5, "f1": 4 / 7, "score": 0.6})


@pytest.mark.parametrize(
    ("npos", "hits"), [(0, []), (0, [-1, -1]), (3, []), (3, [-1, 0])], ids=["nothing", "no objects", "no detections", "none right"]
)
def test_a_class_without_hits_has_no_operating_point(npos: int, hits: list[int]) -> None:
    result = ClassResult("a", npos, np.array(hits, np.int8), np.linspace(0.9, 0.1, len(hits)))
    assert result.best_f1() is None
    assert (result.ap_area, result.ap_voc07) == (0, 0)


def test_the_curve_is_the_greatest_precision_still_to_come() -> None:
    levels = np.array([0.0, 0.25, 0.26, 0.5, 0.51, 1.0])
    assert curve(RESULT, levels).tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3, 0, 0])


def test_means_leave_out_classes_without_objects() -> None:
    absent = ClassResult("b", 0, np.array([-1], np.int8), np.array([0.9]))
    scores = Scores(("a", "b"), 1, (0.5,), ((RESULT, absent),), np.zeros((3, 3), np.int64), 0.5, 0.3, NO_CALIBRATION)
    assert scores.map() == RESULT.ap_area
    assert scores.map(kind="voc07") == RESULT.ap_voc07
    assert scores.map50_95() is None  # the other thresholds were not evaluated
    data = scores.to_json()
    assert data["iou"]["0.5"]["classes_with_ground_truth"] == 1
    assert list(data["curves"]["precision"]) == ["a"]
    assert data["confusion"]["names"] == ["a", "b", "background"]


@pytest.mark.parametrize(
    ("too_large", "said"),
    [
        (TooLarge(0, 5, 1), "No detection is longer than the diagonal of the image."),
        (TooLarge(1, 5, 1), "1 of 5 detections is longer than the diagonal of the image."),
        (TooLarge(1200, 5000, 0), "1,200 of 5,000 detections are longer than the diagonal of the image (counted on the 0 of 1 "),
        (None, None),
    ],
    ids=str,
)
def test_what_is_said_besides_the_table(too_large: TooLarge | None, said: str | None) -> None:
    scored = evaluate(Predictions.of_images([found((A, 0.9, 0), (B, 0.9, 0))]), Truths.of_images([real((A, 0, 0))]), ["a"])
    first, *rest = replace(scored, too_large=too_large).remarks()
    assert first == "Expected calibration error: 40.00 % (15 steps of the score, IoU 0.5)."
    assert len(rest) == (said is not None)
    assert not rest or rest[0].startswith(said or "?")
    data = replace(scored, too_large=too_large).to_json()
    assert data["calibration"]["ece"] == pytest.approx(0.4)
    assert data["larger_than_image"] == (too_large and dict(zip(("larger", "detections", "images"), too_large, strict=True)))
