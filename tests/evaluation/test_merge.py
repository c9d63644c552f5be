"""Tiles to scenes: names, offsets, suppression across borders, and the reference's 1,632 detections that become 857."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import Polygon

from rotanext.data.task1 import Task1Line, read_task1
from rotanext.data.tiles import parse_tile_name
from rotanext.errors import Problems, UserError
from rotanext.evaluation.merge import (
    merge_task1,
    polygon_nms,
)
from rotanext.ops import overlapping_polygons

LINE = "0 0 10 0 10 10 0 10"


def test_overlapping_polygons() -> None:
    rng = np.random.default_rng(0)
    square = np.array([[0, 0], [9, 1], [10, 10], [-1, 8]])
    a, b = (rng.uniform(0, 60, (n, 1, 2)) + square for n in (37, 23))
    whole = overlapping_polygons(a, b)
    truth = {(i, j) for i in range(37) for j in range(23) if Polygon(a[i]).intersection(Polygon(b[j])).area > 0}
    assert set(zip(whole[0].tolist(), whole[1].tolist(), strict=True)) == truth
    assert [len(column) for column in overlapping_polygons(a[:0], b)] == [0, 0, 0]
    assert [len(column) for column in overlapping_polygons(a, b[:0])] == [0, 0, 0]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_polygon_nms_against_plain_loops(threshold: float) -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 40, (60, 1, 2)) + np.array([[0, 0], [14, 2], [12, 9], [-2, 11]])
    scores = np.round(rng.random(60), 1)
    kept: list[int] = []
    for k in sorted(range(60), key=lambda k: -scores[k]):
        shape = Polygon(corners[k])
        if all(shape.intersection(o).area / shape.union(o).area <= threshold for o in (Polygon(corners[i]) for i in kept)):
            kept.append(k)
    assert polygon_nms(corners, scores, threshold).tolist() == kept
    assert 1 < len(kept) < 60


def test_polygon_nms_drops_only_what_is_greater() -> None:
    corners = np.array([[[0, 0], [10, 0], [10, 10], [0, 10]], [[0, 0], [5, 0], [5, 10], [0, 10]]], np.float64)
    assert polygon_nms(corners, np.array([0.9, 0.8]), 0.5).tolist() == [0, 1]  # IoU is exactly 0.5
    assert polygon_nms(corners, np.array([0.9, 0.8]), 0.49).tolist() == [0]
    assert polygon_nms(corners[:0], np.zeros(0), 0.5).tolist() == []


def _key(line: Task1Line) -> tuple[object, ...]:
    return (line.stem, line.score, *np.round(np.ravel(line.corners), 4).tolist())


@pytest.mark.usefixtures("each_implementation")
def test_the_reference_merge(shared: Path, tmp_path: Path) -> None:
    sample = shared / "data" / "dota-sample"
    assert merge_task1(sample / "patch_detections", tmp_path, iou_threshold=0.3) == (1632, 857)
    ours, theirs = read_task1(tmp_path, Problems(strict=True)), read_task1(sample / "merged_detections", Problems())
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert Counter(line.stem for line in ours[name]) == Counter(line.stem for line in theirs[name])
        assert list(dict.fromkeys(line.stem for line in ours[name])) == list(dict.fromkeys(line.stem for line in theirs[name]))


def test_the_reference_merge_is_reproduced_given_its_order_of_ties(shared: Path, tmp_path: Path) -> None:
    # The reference sorted by numpy's unstable quicksort, reversed. With equal scores put in its order, every one of
    # its 857 detections comes out, and nothing else.
    sample = shared / "data" / "dota-sample"
    theirs = {name: {_key(line) for line in lines} for name, lines in read_task1(sample / "merged_detections", Problems()).items()}
    (tmp_path / "tiles").mkdir()
    for path in (sample / "patch_detections").glob("Task1_*.txt"):
        first, rest = [], []
        for text in path.read_text().splitlines():
            stem, score, *numbers = text.split()
            tile = parse_tile_name(stem)
            assert tile is not None
            corners = np.array(numbers, float).reshape(4, 2) + np.array([tile.x, tile.y])
            wanted = (tile.stem, float(score), *np.round(corners.ravel(), 4).tolist())
            (first if wanted in theirs[path.stem.removeprefix("Task1_")] else rest).append(text)
        (tmp_path / "tiles" / path.name).write_text("\n".join(first + rest))
    assert merge_task1(tmp_path / "tiles", tmp_path / "merged", iou_threshold=0.3) == (1632, 857)
    ours = read_task1(tmp_path / "merged", Problems(strict=True))
    assert {name: {_key(line) for line in lines} for name, lines in ours.items()} == theirs


def test_merge_task1_rates_sizes_and_bad_names(tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    rows = [
        f"S__1024__100___0 0.5 {LINE}",
        f"S__0.5__50___0 0.75 {LINE}",  # the same place at half the resolution: 100..120
        f"T__1.0__0___7 0.25 {LINE}",
        f"S 0.9 {LINE}",
    ]
    (tiles / "Task1_ship.txt").write_text("\n".join(rows) + "\n")
    (tiles / "Task1_plane.txt").write_text("")
    problems = Problems()
    assert merge_task1(tiles, tmp_path / "out", 0.2, problems) == (3, 2)
    assert problems.count == 1
    assert "'S'" in problems.first[0]
    assert (tmp_path / "out" / "Task1_plane.txt").read_text() == ""
    assert (tmp_path / "out" / "Task1_ship.txt").read_text().splitlines() == [
        "S 0.75 100.0 0.0 120.0 0.0 120.0 20.0 100.0 20.0",
        "T 0.25 0.0 7.0 10.0 7.0 10.0 17.0 0.0 17.0",
    ]
    with pytest.raises(UserError, match="'S'"):
        merge_task1(tiles, tmp_path / "strict", 0.2, Problems(strict=True))


def test_merge_task1_never_overwrites_its_input(tmp_path: Path) -> None:
    (tmp_path / "Task1_ship.txt").write_text(f"S__1024__0___0 0.5 {LINE}\n")
    with pytest.raises(UserError, match="the folder of the tiles"):
        merge_task1(tmp_path, tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        merge_task1(tmp_path / "missing", tmp_path / "out")
