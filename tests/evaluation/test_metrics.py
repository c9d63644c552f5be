"""The DOTA protocol: the reference's figures, cases worked by hand, and a slow, obvious implementation as the truth."""

import json
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import Polygon

import places
from rotanext.errors import Problems, UserError
from rotanext.evaluation.metrics import (
    THRESHOLDS,
    Evidence,
    Predictions,
    Truths,
    confusion_matrix,
    dota_map,
    evaluate,
    larger_than_image,
    read_evidence,
)
from rotanext.images.reading import write_png
from squares import found, random_scene, real, square

GOLDEN = json.loads((places.GOLDEN / "expected_ap.json").read_text())


def score_sheet(scores, iou: float = 0.5) -> list[tuple[int, int, int, int]]:
    return [(r.npos, r.ndet, r.tp, r.fp) for r in scores.at(iou)]


@pytest.mark.parametrize("iou", ["0.5", "0.75"])
@pytest.mark.usefixtures("each_implementation")
def test_reference_figures(shared: Path, iou: str) -> None:
    sample, expected = shared / "data" / "dota-sample", GOLDEN["iou"][iou]
    problems = Problems()
    scores = dota_map(sample / "merged_detections", sample / "labelTxt", iou=float(iou), problems=problems)
    assert problems.count == 0
    assert scores.images == GOLDEN["images"]
    ours = scores.to_json()["iou"][iou]
    assert ours["classes"].keys() == expected["classes"].keys()
    for name, figures in expected["classes"].items():
        for key, value in figures.items():
            assert ours["classes"][name][key] == pytest.approx(value, abs=1e-9), (name, key)
    for key in ("map_voc07", "map_area", "classes_with_ground_truth"):
        assert ours[key] == pytest.approx(expected[key], abs=1e-9)
    assert scores.map(float(iou), "voc07") == pytest.approx(expected["map_voc07"], abs=1e-9)
    assert scores.thresholds[0] == float(iou)
    assert len(scores.thresholds) == 10


A, NEAR_A, B = square(0), square(1), square(100)  # A and NEAR_A: IoU 90 / 110 = 0.818
CASES = {
    "one_found": ([found((A, 0.9, 0))], [real((A, 0, 0))], [(1, 1, 1, 0)], 1.0),
    # The better of two on one object counts, the other one is wrong.
    "duplicate": ([found((NEAR_A, 0.8, 0), (A, 0.9, 0))], [real((A, 0, 0))], [(1, 2, 1, 1)], 1.0),
    # A difficult object neither counts nor punishes, however often it is found.
    "difficult": ([found((A, 0.9, 0), (NEAR_A, 0.8, 0))], [real((A, 0, 1), (B, 0, 0))], [(1, 2, 0, 0)], 0.0),
    # 2 marks an object cut by a tile's border: ignored as well.
    "truncated": ([found((A, 0.9, 0), (B, 0.5, 0))], [real((A, 0, 2), (B, 0, 0))], [(1, 2, 1, 0)], 1.0),
    # A detection only looks at what it overlaps most: taken, so wrong, although it overlaps the second one enough.
    "best_overlap_is_taken": (
        [found((A, 0.9, 0), (A, 0.8, 0))],
        [real((A, 0, 0), (NEAR_A, 0, 0))],
        [(2, 2, 1, 1)],
        0.5,
    ),
    # Equal overlap with two objects: the first one.
    "equal_overlap": (
        [found((A, 0.9, 0))],
        [real((square(2), 0, 1), (square(-2), 0, 0))],
        [(1, 1, 0, 0)],
        0.0,
    ),
    # IoU exactly 0.5 (5 x 10 inside 10 x 10) is not greater than 0.5.
    "exactly_at_the_threshold": ([found((square(0, 0, 5), 0.9, 0))], [real((A, 0, 0))], [(1, 1, 0, 1)], 0.0),
    "missed": ([found()], [real((A, 0, 0))], [(1, 0, 0, 0)], 0.0),
    "only_false_alarms": ([found((A, 0.9, 0))], [real()], [(0, 1, 0, 1)], None),
    "only_difficult": ([found((A, 0.9, 0))], [real((A, 0, 1))], [(0, 1, 0, 0)], None),
    "same_place_other_image": ([found(), found((A, 0.9, 0))], [real((A, 0, 0)), real()], [(1, 1, 0, 1)], 0.0),
    "other_class": ([found((A, 0.9, 1))], [real((A, 0, 0))], [(1, 0, 0, 0), (0, 1, 0, 1)], 0.0),
    # Class 1 has no object and is left out of the mean.
    "class_without_objects": ([found((A, 0.9, 0), (B, 0.9, 1))], [real((A, 0, 0))], [(1, 1, 1, 0), (0, 1, 0, 1)], 1.0),
    # Equal scores keep their order: wrong first, precision 1/2 at recall 1.
    "tie_wrong_first": ([found((B, 0.9, 0), (A, 0.9, 0))], [real((A, 0, 0))], [(1, 2, 1, 1)], 0.5),
    "tie_right_first": ([found((A, 0.9, 0), (B, 0.9, 0))], [real((A, 0, 0))], [(1, 2, 1, 1)], 1.0),
    "collapsed_shapes": (
        [found((square(0, 0, 0, 0), 0.9, 0))],
        [real((square(0, 0, 9, 0), 0, 0))],
        [(1, 1, 0, 1)],
        0.0,
    ),
    "nothing_at_all": ([found()], [real()], [(0, 0, 0, 0)], None),
}


@pytest.mark.parametrize(("detections", "objects", "expected", "mean"), CASES.values(), ids=CASES.keys())
def test_by_hand(detections: list, objects: list, expected: list, mean: float | None) -> None:
    names = [f"class{k}" for k in range(len(expected))]
    scores = evaluate(Predictions.of_images(detections), Truths.of_images(objects), names)
    assert score_sheet(scores) == expected
    assert scores.map(0.5, "area") == (mean if mean is None else pytest.approx(mean))


def slow_reference(detections: list, objects: list, label: int, iou: float) -> tuple[int, list[int], float]:
    """npos, hits and area AP of one class, with shapely and plain loops."""
    rows = [
        (score, image, Polygon(corners))
        for image, part in enumerate(detections)
        for corners, score, of_class in zip(*part, strict=True)
        if of_class == label
    ]
    truths = [
        [(Polygon(corners), bool(hard)) for corners, of_class, hard in zip(*part, strict=True) if of_class == label]
        for part in objects
    ]
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, image, shape in sorted(rows, key=lambda row: -row[0]):
        overlaps = [shape.intersection(t).area / shape.union(t).area for t, _ in truths[image]]
        best = max(range(len(overlaps)), key=lambda k: overlaps[k], default=None)
        if best is None or overlaps[best] <= iou:
            hits.append(-1)
        elif truths[image][best][1]:
            hits.append(0)
        else:
            hits.append(-1 if (image, best) in taken else 1)
            taken.add((image, best))
    npos = sum(not hard for part in truths for _, hard in part)
    points, right, counted = [], 0, 0
    for hit in hits:
        right, counted = right + (hit == 1), counted + (hit != 0)
        points.append((right / max(npos, 1), right / max(counted, 1)))
    area, last = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - last) * max(precision for _, precision in points[k:])
        last = recall
    return npos, hits, area


@pytest.mark.parametrize("seed", range(4))
def test_against_the_slow_reference(seed: int) -> None:
    detections, objects = random_scene(np.random.default_rng(seed), 3)
    scores = evaluate(Predictions.of_images(detections), Truths.of_images(objects), ["a", "b", "c"])
    hits_seen = set()
    for iou in (0.5, 0.6, 0.75, 0.9):
        for label, result in enumerate(scores.at(iou)):
            npos, hits, area = slow_reference(detections, objects, label, iou)
            assert (result.npos, result.hits.tolist()) == (npos, hits)
            assert result.ap_area == pytest.approx(area, abs=1e-12)
            hits_seen |= set(hits)
    assert hits_seen == {-1, 0, 1}
    means = [scores.map(iou) for iou in THRESHOLDS]
    assert scores.map50_95() == pytest.approx(np.mean(means))


def test_order_of_ties_across_images_is_the_row_order() -> None:
    truths = Truths.of_images([real((A, 0, 0)), real()])
    rows = Predictions.of_images([found((A, 0.5, 0)), found((B, 0.5, 0))])
    back = Predictions(rows.images[::-1], rows.corners[::-1], rows.scores[::-1], rows.labels[::-1])
    assert evaluate(rows, truths, ["a"]).map() == pytest.approx(1.0)
    assert evaluate(back, truths, ["a"]).map() == pytest.approx(0.5)


def _no_detections() -> tuple[Predictions, Truths, list[str]]:
    return Predictions.of_images([found()]), Truths.of_images([real((A, 0, 0))]), ["a", "b"]


def test_wrong_labels_and_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels 0\.\.3 with 2 class names"):
        evaluate(Predictions.of_images([found((A, 0.9, 3), (A, 0.9, 0))]), Truths.of_images([real()]), ["a", "b"])
    with pytest.raises(ValueError, match="was not evaluated"):
        evaluate(*_no_detections(), thresholds=(0.5,)).at(0.75)
    assert evaluate(*_no_detections(), thresholds=(0.5,)).summary() == {"map50": 0.0, "map75": None, "map50_95": None}


CONFUSION = {
    "right": (found((A, 0.9, 0)), real((A, 0, 0)), [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "confused": (found((A, 0.9, 1)), real((A, 0, 0)), [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
    "missed": (found(), real((A, 0, 0)), [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
    "background": (found((B, 0.9, 1)), real((A, 0, 0)), [[0, 0, 1], [0, 0, 0], [0, 1, 0]]),
    "low_score": (found((A, 0.1, 0)), real((A, 0, 0)), [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
    # The better score takes the object, whatever its class; the second is left with nothing.
    "two_classes": (found((A, 0.8, 0), (NEAR_A, 0.9, 1)), real((A, 0, 0)), [[0, 1, 0], [0, 0, 0], [1, 0, 0]]),
    # Unlike in the AP protocol, the second of two crowded objects stays available.
    "crowded": (found((A, 0.9, 0), (A, 0.8, 0)), real((A, 0, 0), (NEAR_A, 0, 0)), [[2, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "difficult": (found((A, 0.9, 1), (NEAR_A, 0.9, 0)), real((A, 0, 1)), [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "difficult_beside": (found((A, 0.9, 0)), real((A, 0, 1), (NEAR_A, 1, 0)), [[0, 0, 0], [1, 0, 0], [0, 0, 0]]),
}


@pytest.mark.parametrize(("detections", "objects", "expected"), CONFUSION.values(), ids=CONFUSION.keys())
def test_confusion_matrix(detections: tuple, objects: tuple, expected: list) -> None:
    predictions, truths = Predictions.of_images([detections]), Truths.of_images([objects])
    assert confusion_matrix(predictions, truths, 2, 0.3).tolist() == expected
    assert evaluate(predictions, truths, ["a", "b"]).confusion.tolist() == expected


LINE = "0 0 10 0 10 10 0 10"


def _folders(tmp_path: Path, detections: dict[str, str], labels: dict[str, str]) -> tuple[Path, Path]:
    for folder, files in (("found", detections), ("labelTxt", labels)):
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    return tmp_path / "found", tmp_path / "labelTxt"


def test_dota_map_takes_names_and_images_from_the_files(tmp_path: Path) -> None:
    detections = {"Task1_ship.txt": f"P1 0.9 {LINE}\n", "Task1_plane.txt": ""}
    labels = {"P1.txt": f"imagesource:x\ngsd:1\n{LINE} ship 0\n{LINE} harbor 0\n", "P2.txt": ""}
    found_dir, labels_dir = _folders(tmp_path, detections, labels)
    for folder in (labels_dir, tmp_path):  # the label folder, or the data set that holds it
        scores = dota_map(found_dir, folder)
        assert scores.class_names == ("harbor", "plane", "ship")
        assert score_sheet(scores) == [(1, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 0)]
        assert scores.map() == pytest.approx(0.5)
        assert scores.images == 2


def test_dota_map_names_detections_without_label(tmp_path: Path) -> None:
    rows = f"P1 0.9 {LINE}\nP1__1024__0___0 0.9 {LINE}\nP1__1024__0___0 0.8 {LINE}\nP9 0.9 {LINE}\n"
    folders = _folders(tmp_path, {"Task1_ship.txt": rows}, {"P1.txt": f"{LINE} ship 0\n"})
    problems = Problems()
    assert score_sheet(dota_map(*folders, problems=problems)) == [(1, 1, 1, 0)]
    assert problems.count == 2
    assert "merge the tiles first" in problems.first[0]
    assert "'P9'" in problems.first[1]
    with pytest.raises(UserError, match="P1__1024__0___0"):
        dota_map(*folders, problems=Problems(strict=True))


BAD = {
    "only_tiles": ({"Task1_ship.txt": f"P1__1024__0___0 0.9 {LINE}\n"}, {"P1.txt": ""}, 0.5, "merge the tiles first"),
    "no_labels": ({"Task1_ship.txt": ""}, {}, 0.5, "no .txt file"),
    "no_detections_file": ({}, {"P1.txt": ""}, 0.5, "Task1_"),
    "percent_for_fraction": ({"Task1_ship.txt": ""}, {"P1.txt": ""}, 50, "between 0 and 1"),
}


@pytest.mark.parametrize(("detections", "labels", "iou", "message"), BAD.values(), ids=BAD.keys())
def test_dota_map_refuses(tmp_path: Path, detections: dict, labels: dict, iou: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dota_map(*_folders(tmp_path, detections, labels), iou=iou)


def test_dota_map_refuses_a_missing_folder(tmp_path: Path) -> None:
    folders = _folders(tmp_path, {"Task1_ship.txt": ""}, {"P1.txt": ""})
    with pytest.raises(UserError, match="no such folder"):
        dota_map(folders[0], tmp_path / "missing")
    with pytest.raises(UserError, match="no such folder"):
        dota_map(tmp_path / "missing", folders[1])


def test_detections_larger_than_their_image() -> None:
    """A side longer than the diagonal, whatever the angle; where the size is not known, nothing is counted."""
    long, turned = square(0, 0, 51, 1), (square(0, 0, 51, 1) - 20) @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    rows = found((long, 0.9, 0), (turned, 0.8, 0), (square(0, 0, 50, 50), 0.7, 0), (square(900), 0.6, 0))
    predictions = Predictions.of_images([rows, rows, found((long, 0.9, 0))])
    sizes = np.array([[30.0, 40.0], [np.nan, np.nan], [52.0, 1.0]])  # a diagonal of 50
    assert larger_than_image(predictions, sizes) == (2, 5, 2)
    assert larger_than_image(predictions, np.full((3, 2), np.nan)) is None
    assert larger_than_image(Predictions.of_images([]), np.zeros((0, 2))) == (0, 0, 0)
    truths = Truths.of_images([real()] * 3)
    evidence = Evidence(("a",), predictions, truths, ("p", "q", "r"), (None,) * 3, sizes)
    assert evidence.score().too_large == (2, 5, 2)


def test_sizes_of_images_beside_labels_are_their_headers(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/labelTxt").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / f"data/labelTxt/{name}.txt").write_text("1 1 9 1 9 9 1 9 ship 0\n")
    (tmp_path / "found/Task1_ship.txt").write_text("a 0.9 0 0 60 0 60 9 0 9\nb 0.9 0 0 99 0 99 9 0 9\nc 0.9 0 0 99 0 99 9 0 9\n")
    write_png(tmp_path / "data/images/a.png", np.zeros((40, 30, 3), np.uint8))
    (tmp_path / "data/images/b.png").write_bytes(b"no image")
    evidence = read_evidence(tmp_path / "found", tmp_path / "data")
    np.testing.assert_array_equal(evidence.sizes, [[30, 40], [np.nan, np.nan], [np.nan, np.nan]])
    assert evidence.score().too_large == (1, 1, 1)
    assert read_evidence(tmp_path / "found", tmp_path / "data/labelTxt").sizes[0].tolist() == [30, 40]
