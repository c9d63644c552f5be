"""Scores against what comes true, on numbers worked out by hand."""

import json
import warnings

import numpy as np
import pytest

from rotanext.evaluation.calibration import STEPS, Calibration, calibration
from rotanext.evaluation.metrics import Predictions, Truths, evaluate
from squares import found, real, square


def of(*rows: tuple[float, int], steps: int = STEPS) -> Calibration:
    """Of detections (score, hit)."""
    return calibration(np.array([row[0] for row in rows], np.float64), np.array([row[1] for row in rows], np.int8), 0.5, steps)


def test_the_error_by_hand() -> None:
    # steps of a fifth: (0.6, 0.8] has three, two of them right, mean score 0.7; (0, 0.2] has one, which is false
    result = of((0.65, 1), (0.7, -1), (0.75, 1), (0.1, -1), (0.9, 0), steps=5)
    assert result.right.tolist() == [0, 0, 0, 2, 0]
    assert result.wrong.tolist() == [1, 0, 0, 1, 0]
    assert result.counts.tolist() == [1, 0, 0, 3, 0]
    assert result.mean_score.tolist() == pytest.approx([0.1, np.nan, np.nan, 0.7, np.nan], nan_ok=True)
    assert result.precision.tolist() == pytest.approx([0, np.nan, np.nan, 2 / 3, np.nan], nan_ok=True)
    assert result.error == pytest.approx(1 / 4 * abs(0 - 0.1) + 3 / 4 * abs(2 / 3 - 0.7))


def test_a_step_ends_with_its_upper_edge() -> None:
    assert of((0.2, 1), (0.2000001, 1), (0.4, 1), (1.0, 1), (0.0, 1), steps=5).right.tolist() == [2, 2, 0, 0, 1]
    assert of((1 / 15, 1), (15 / 15, 1)).right.tolist() == [1, *[0] * 13, 1]
    assert of((0.3, 1)).edges.tolist() == pytest.approx([k / 15 for k in range(16)])


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([(1.0, 1)] * 4, 0.0),  # as promised
        ([(1.0, -1)] * 4, 1.0),
        ([(0.5, 1), (0.5, -1)], 0.0),
        ([(0.5, 1), (0.5, 1)], 0.5),
        ([(0.8, 0)], None),  # on a difficult object: neither right nor wrong
        ([], None),
    ],
    ids=["sure and right", "sure and false", "half", "too modest", "ignored", "none"],
)
def test_plain_cases(rows: list[tuple[float, int]], error: float | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of(*rows).error == (None if error is None else pytest.approx(error))
        assert json.loads(json.dumps(of(*rows).to_json(), allow_nan=False))["ece"] == of(*rows).error


def test_scores_that_are_probabilities_have_a_small_error_and_others_have_none() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    for power, expected in ((1.0, 0.0), (2.0, 1 / 2 - 1 / 3)):  # the mean of s - s^2
        hits = np.where(rng.random(len(scores)) < scores**power, 1, -1).astype(np.int8)
        assert calibration(scores, hits, 0.5).error == pytest.approx(expected, abs=0.005)


A, NEAR_A, B, FAR = square(0), square(1), square(100), square(300)


def test_right_is_what_the_metrics_call_a_true_positive() -> None:
    """One detection an object, the better one; of its class; difficult objects aside; at the first threshold."""
    detections = found((A, 0.95, 0), (NEAR_A, 0.9, 0), (B, 0.8, 1), (FAR, 0.3, 0), (square(200), 0.5, 0))
    objects = real((A, 0, 0), (B, 0, 0), (square(200), 0, 1))
    scores = evaluate(Predictions.of_images([detections]), Truths.of_images([objects]), ["a", "b"])
    result = scores.calibration
    assert (result.iou, result.steps) == (0.5, 15)
    assert (int(result.right.sum()), int(result.wrong.sum())) == (1, 3)
    assert result.right[14] == 1
    assert [int(result.wrong[k]) for k in (13, 11, 4)] == [1, 1, 1]
    # (0.9, -), (0.8, -), (0.3, -) alone in their steps, 0.95 right
    assert result.error == pytest.approx((0.05 + 0.9 + 0.8 + 0.3) / 4)
    total = sum(r.tp for r in scores.at()), sum(r.fp for r in scores.at())
    assert total == (result.right.sum(), result.wrong.sum())
    strict = evaluate(Predictions.of_images([found((NEAR_A, 0.9, 0))]), Truths.of_images([real((A, 0, 0))]), ["a"], (0.85,))
    assert (strict.calibration.iou, strict.calibration.error) == (0.85, pytest.approx(0.9))


def test_json() -> None:
    data = of((0.65, 1), (0.7, -1), (0.1, -1), steps=5).to_json()
    assert data["score_edges"] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert (data["detections"], data["right"]) == ([1, 0, 0, 2, 0], [0, 0, 0, 1, 0])
    assert data["mean_score"] == [0.1, None, None, pytest.approx(0.675), None]
    assert data["iou"] == 0.5
