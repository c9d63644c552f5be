"""Hand-made detections whose average precision by size, angle errors and worst cases are known."""

import math

import numpy as np
import pytest
import torch

from rotanext.boxes import boxes_to_corners
from rotanext.evaluation.analysis import (
    REASONS,
    SIZES,
    angle_errors,
    aspect,
    match,
    reasons,
    side,
    slices,
    spread,
    worst_angles,
    worst_false_positives,
    worst_misses,
)
from rotanext.evaluation.metrics import Evidence, Predictions, Truths
from rotanext.polygons import corners_to_boxes


def corners(*boxes: tuple[float, float, float, float, float]) -> np.ndarray:
    """Corners of boxes with angles in degrees."""
    values = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 5)
    values[:, 4] = torch.deg2rad(values[:, 4])
    return boxes_to_corners(values).numpy()


def evidence(truths: list[tuple], found: list[tuple], names: tuple[str, ...] = ("plane", "ship")) -> Evidence:
    """Of one image: truths are (box, label, difficult), detections (box, score, label)."""
    objects = Truths.of_images([(corners(*(t[0] for t in truths)), [t[1] for t in truths], [t[2] for t in truths])])
    columns = [f[1] for f in found], [f[2] for f in found]
    return Evidence(
        names,
        Predictions.of_images([(corners(*(f[0] for f in found)), *columns)]),
        objects,
        ("p0",),
        (None,),
        np.full((1, 2), np.nan),
    )


SMALL, LARGE = (50, 50, 30, 10, 0), (200, 200, 160, 80, 0)  # sides 17 and 113 pixels
SMALL_2, FAR = (150, 50, 30, 10, 0), (400, 400, 30, 10, 0)


def test_average_precision_by_size() -> None:
    found = [
        (SMALL, 0.9, 0),
        (FAR, 0.8, 0),  # false, and small by its own box
        (SMALL_2, 0.7, 0),
        ((200, 200, 130, 80, 0), 0.6, 0),  # IoU 0.8125 with the large one
        (LARGE, 0.5, 0),  # a duplicate at 0.5 and 0.75: the first took it
    ]
    of = evidence([(SMALL, 0, 0), (SMALL_2, 0, 0), (LARGE, 0, 0)], found)
    parts = slices(match(of), match(of, 0.75), "size", SIZES)
    assert [part.npos for part in parts] == [0, 2, 0, 1]
    assert [part.ndet for part in parts] == [0, 3, 0, 2]
    # small: true, false, true: precision 1 up to recall 1/2, then 2/3
    assert parts[1].ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert parts[3].ap == pytest.approx(1)
    assert (parts[0].ap, parts[2].ap) == (None, None)
    assert parts[1].recall == 1
    strict = slices(match(of, 0.85), match(of, 0.85), "size", SIZES)
    assert strict[3].ap == pytest.approx(0.5)  # the better one misses this threshold: false, true


def test_a_detection_belongs_to_its_object() -> None:
    """One that is itself of another size counts where its object lies, whatever the limits."""
    of = evidence([((100, 100, 100, 100, 0), 0, 0)], [((100, 100, 100, 80, 0), 0.9, 0)])
    parts = slices(match(of), match(of), "size", SIZES)
    assert side(corners_to_boxes(of.predictions.corners))[0] < 96
    assert [part.ndet for part in parts] == [0, 0, 0, 1]
    assert parts[3].ap == 1


@pytest.mark.parametrize("property_of", ["size", "aspect"])
def test_slices_are_a_partition(property_of: str) -> None:
    """True and false positives of the slices add up to those of the whole, class by class."""
    rng = np.random.default_rng(3)
    truths, found = [], []
    for _ in range(80):
        box = (*rng.uniform(0, 900, 2), *np.sort(rng.uniform(4, 160, 2))[::-1], rng.uniform(-90, 90))
        truths.append((box, int(rng.integers(2)), int(rng.random() < 0.1)))
        for _ in range(int(rng.integers(3))):
            moved = (*(box[:4] + rng.normal(0, 2, 4)), box[4] + rng.normal(0, 5))
            found.append(((*moved[:2], abs(moved[2]), abs(moved[3]), moved[4]), float(rng.random()), int(rng.integers(2))))
    of = evidence(truths, found)
    scores, matching = of.score((0.5,)), match(of)
    parts = slices(matching, matching, property_of, (10.0, 30.0) if property_of == "size" else (1.5, 3.0))
    for label, whole in enumerate(scores.at(0.5)):
        for key in ("npos", "ndet", "tp", "fp"):
            assert sum(getattr(part.results[label], key) for part in parts) == getattr(whole, key)
    everything = slices(matching, matching, property_of, ())
    assert everything[0].ap == pytest.approx(scores.map(0.5))


@pytest.mark.parametrize(
    ("truth", "found", "degrees"),
    [
        (0, 0, 0),
        (0, 7, 7),
        (10, 4, -6),
        (89, -89, 2),  # across the end of the interval
        (-89, 89, -2),
        (45, 45 + 180, 0),  # the same box
    ],
)
def test_angle_errors(truth: float, found: float, degrees: float) -> None:
    of = evidence([((100, 100, 40, 10, truth), 0, 0)], [((100, 100, 40, 10, found), 0.9, 0)])
    errors = angle_errors(match(of))
    assert errors.degrees == pytest.approx([degrees], abs=1e-6)
    assert errors.aspects == pytest.approx([4])


def test_only_matched_and_elongated_boxes_have_angle_errors() -> None:
    long, square, hard = (100, 100, 40, 10, 0), (200, 200, 20, 20, 0), (300, 300, 40, 10, 0)
    found = [
        ((100, 100, 40, 10, 8), 0.9, 0),
        ((100, 100, 40, 10, 1), 0.8, 0),  # a duplicate
        ((200, 200, 20, 20, 30), 0.9, 0),  # square: the angle says nothing
        ((300, 300, 40, 10, 5), 0.9, 0),  # ignored
        ((500, 500, 40, 10, 5), 0.9, 0),  # nothing there
    ]
    errors = angle_errors(match(evidence([(long, 0, 0), (square, 0, 0), (hard, 0, 1)], found)))
    assert len(errors.rows) == 2
    assert errors.elongated.tolist() == [True, False]
    summary = errors.summary(errors.elongated)
    assert summary == pytest.approx({"count": 1, "median": 8, "p90": 8, "bias": 8, "beyond10": 0})
    assert errors.summary(np.zeros(2, bool)) is None


def test_summary_of_angles() -> None:
    truths = [((100 * k, 100, 40, 20, 0), 0, 0) for k in range(1, 12)]
    found = [((100 * k, 100, 40, 20, k - 1 + k // 11), 0.9, 0) for k in range(1, 12)]  # 0 to 9, 11 degrees
    errors = angle_errors(match(evidence(truths, found)))
    summary = errors.summary(errors.elongated)
    assert summary == pytest.approx({"count": 11, "median": 5, "p90": 9, "bias": 5, "beyond10": 1 / 11}, abs=1e-5)


CASES = [
    ((SMALL, 0.9, 0), "found"),
    ((SMALL, 0.8, 0), "duplicate"),
    ((SMALL_2, 0.7, 0), "wrong class"),
    (((200, 250, 160, 80, 0), 0.6, 0), "badly placed"),  # IoU 30 / 130
    ((FAR, 0.5, 0), "nothing there"),
    (((300, 50, 30, 10, 0), 0.4, 0), "found"),  # on a difficult object: ignored
]


def test_why_detections_are_false() -> None:
    truths = [(SMALL, 0, 0), (SMALL_2, 1, 0), (LARGE, 0, 0), ((300, 50, 30, 10, 0), 0, 1)]
    matching = match(evidence(truths, [detection for detection, _ in CASES]))
    names = [REASONS[k] if k >= 0 else "found" for k in reasons(matching).tolist()]
    assert names == [reason for _, reason in CASES]
    assert worst_false_positives(matching, 2).tolist() == [1, 2]
    assert worst_misses(matching, 5, 0.3).tolist() == [2, 1]  # the larger first; the difficult one is none
    assert worst_misses(matching, 5, 0.95).tolist() == [2, 1, 0]  # found, but not with this score


def test_worst_angles() -> None:
    truths = [((100 * k, 100, 40, 20, 0), 0, 0) for k in range(1, 4)]
    found = [((100, 100, 40, 20, 3), 0.9, 0), ((200, 100, 40, 20, -9), 0.8, 0), ((300, 100, 40, 20, 15), 0.1, 0)]
    of = evidence(truths, found)
    errors = angle_errors(match(of))
    chosen = worst_angles(errors, of.predictions.scores, 5, 0.3)
    assert errors.degrees[chosen] == pytest.approx([-9, 3])


def test_spread() -> None:
    assert spread(np.array([0, 0, 0, 1, 0, 2]), 3).tolist() == [0, 3, 5]
    assert spread(np.array([0, 0, 0, 1]), 3).tolist() == [0, 1, 3]
    assert spread(np.array([0, 0]), 6).tolist() == [0, 1]
    assert spread(np.zeros(0, np.int64), 6).tolist() == []


@pytest.mark.parametrize("truths", [[], [(SMALL, 0, 0)]], ids=["no objects", "an object"])
@pytest.mark.parametrize("found", [[], [(SMALL, 0.9, 1)]], ids=["no detections", "a detection"])
def test_nothing_to_analyse(truths: list, found: list) -> None:
    matching = match(evidence(truths, found))
    assert sum(part.npos for part in slices(matching, matching, "aspect", (2.0,))) == len(truths)
    assert len(angle_errors(matching).rows) == 0
    assert (evidence(truths, found).score().calibration.error is None) == (not found)
    assert len(worst_false_positives(matching, 3)) == len(found)
    assert len(worst_misses(matching, 3, 0.3)) == len(truths)


def test_a_flat_box_has_an_infinite_aspect() -> None:
    assert aspect(np.array([[0, 0, 5, 0, 0.0]]))[0] > 1e9
    assert math.isfinite(side(np.array([[0, 0, 5, 0, 0.0]]))[0])
