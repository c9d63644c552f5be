"""Tiles to a scene in one pass: borders, rivals, and row by row what all boxes at once would give."""

import numpy as np
import pytest
import torch

from rotanext.detections import Detections
from rotanext.inference.stitch import MergeRule, SceneMerger, Window
from rotanext.ops.reference import rotated_iou

NAMES = ("plane", "ship")
WIDTH, HEIGHT, TILE, STEP = 400, 700, 100, 75
RULE = MergeRule(0.1)
Tile = tuple[Detections, Window]


def detections(*rows: tuple[float, float, float, int], size: tuple[float, float] = (20, 10), angle: float = 0.3) -> Detections:
    """Equal boxes from (cx, cy, score, label)."""
    table = torch.tensor(rows).reshape(-1, 4)
    boxes = torch.tensor([[0.0, 0.0, *size, angle]]).repeat(len(table), 1)
    boxes[:, :2] = table[:, :2]
    return Detections(boxes, table[:, 2], table[:, 3].long(), NAMES)


def merged(tiles: list[Tile], rule: MergeRule = RULE, width: int = 400, height: int = 100) -> Detections:
    merger = SceneMerger(width, height, NAMES, rule)
    for found, window in tiles:
        merger.add(found, window)
    return merger.finish()


def test_boxes_are_shifted_and_compete_per_class() -> None:
    left = detections((85, 50, 0.6, 0), (30, 30, 0.9, 1))
    right = detections((16, 50, 0.8, 0), (15, 49, 0.7, 1))
    tiles = [(left, Window(0, 0, 100, 100)), (right, Window(70, 0, 100, 100))]
    found = merged(tiles)
    assert found.boxes[:, :2].tolist() == [[30, 30], [86, 50], [85, 49]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])  # 0.6 gave way to 0.8; the other class stays
    assert found.labels.tolist() == [1, 0, 1]
    assert left.boxes[0, 0] == 85  # the tiles' own results stay as they were
    assert merged(tiles, MergeRule(0.1, across_classes=True)).scores.tolist() == pytest.approx([0.9, 0.8])


def test_ties_go_to_the_earlier_tile() -> None:
    tiles = [(detections((60, 50, 0.5, 0)), Window(0, 0, 100, 100)), (detections((19, 50, 0.5, 0)), Window(40, 0, 100, 100))]
    assert merged(tiles).boxes[:, 0].tolist() == [60]


def test_the_threshold_and_empty_tiles() -> None:
    tiles = [(detections((70, 50, 0.5, 0)), Window(0, 0, 100, 100)), (detections(), Window(20, 0, 100, 100))]
    tiles += [(detections((25, 50, 0.4, 0)), Window(40, 0, 100, 100))]
    assert len(merged(tiles)) == 1
    assert len(merged(tiles, MergeRule(0.9))) == 2
    assert len(merged([(detections(), Window(0, 0, 100, 100))])) == 0
    assert len(merged([])) == 0


def test_boxes_of_one_tile_have_competed_there() -> None:
    both = detections((50, 50, 0.5, 0), (53, 50, 0.4, 0))
    assert len(merged([(both, Window(0, 0, 100, 100))])) == 2


# A ship of 60 x 10 pixels at y = 50 from x = 60 to 120; tiles of 100 at 0 and 50. The left one sees 40 pixels of it.
LEFT, RIGHT = Window(0, 0, 100, 100), Window(50, 0, 100, 100)
CUT, WHOLE = ((80.0, 50.0), (40.0, 10.0)), ((40.0, 50.0), (60.0, 10.0))


def ship(place: tuple[tuple[float, float], tuple[float, float]], score: float) -> Detections:
    return detections((*place[0], score, 0), size=place[1], angle=0.0)


@pytest.mark.parametrize("better", [0.5, 0.9])
def test_a_cut_box_gives_way_to_the_whole_one(better: float) -> None:
    found = merged([(ship(CUT, better), LEFT), (ship(WHOLE, 0.4), RIGHT)])
    assert found.boxes.tolist() == [[90, 50, 60, 10, 0]]


def test_even_where_their_iou_is_small() -> None:
    sliver = detections((96, 50, 0.9, 0), size=(8.0, 8.0), angle=0.0)  # IoU 0.11 with the whole one
    assert len(merged([(sliver, LEFT), (ship(WHOLE, 0.5), RIGHT)], MergeRule(0.3))) == 1
    free = detections((90, 50, 0.9, 0), size=(8.0, 8.0), angle=0.0)  # as small, but no border has cut it
    assert len(merged([(free, LEFT), (ship(WHOLE, 0.5), RIGHT)], MergeRule(0.3))) == 2


def test_a_cut_box_without_a_whole_one_stays() -> None:
    assert len(merged([(ship(CUT, 0.4), LEFT), (detections(), RIGHT)])) == 1


def test_a_whole_box_of_next_to_no_score_does_not_remove_a_sure_one() -> None:
    assert merged([(ship(CUT, 0.9), LEFT), (ship(WHOLE, 0.05), RIGHT)]).scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(("scene", "kept"), [(150, 0.6), (160, 0.5)], ids=["the scene's border", "a border between tiles"])
def test_only_inner_borders_cut(scene: int, kept: float) -> None:
    at_the_end = detections((95, 50, 0.6, 0), size=(10.0, 10.0), angle=0.0)  # of the right tile, 50 to 150
    inside = detections((45, 50, 0.5, 0), size=(10.0, 10.0), angle=0.0)  # of another, 100 to 200 where there is one
    tiles = [(at_the_end, RIGHT), (inside, Window(100, 0, scene - 100, 100))]
    assert merged(tiles, width=scene).scores.tolist() == pytest.approx([kept])


def test_tiles_come_row_by_row() -> None:
    with pytest.raises(ValueError, match="row by row"):
        merged([(detections(), Window(0, 50, 100, 100)), (detections(), Window(0, 0, 100, 100))])


def rows() -> list[Window]:
    return [Window(x, y, TILE, TILE) for y in range(0, HEIGHT - TILE + 1, STEP) for x in range(0, WIDTH - TILE + 1, STEP)]


def random_tile(rng: np.random.Generator, count: int) -> Detections:
    sides = np.sort(rng.uniform(3, 40, (count, 2)), 1)[:, ::-1]
    boxes = np.concatenate([rng.uniform(0, TILE, (count, 2)), sides, rng.uniform(-1.5, 1.5, (count, 1))], 1)
    scores = np.sort(rng.integers(1, 40, count) / 40)[::-1].copy()  # many tie
    labels = rng.integers(0, 2, count)
    return Detections(torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(labels), NAMES)


def all_at_once(tiles: list[Tile], rule: MergeRule) -> list[tuple[float, ...]]:
    """The rules of merging on all boxes of a scene together, in the plainest way."""
    boxes, scores, labels, cut, owner = [], [], [], [], []
    for number, (found, window) in enumerate(tiles):
        for box, corners, score, label in zip(found.boxes, found.corners, found.scores, found.labels, strict=True):
            (left, top), (right, bottom) = corners.amin(0).tolist(), corners.amax(0).tolist()
            cut.append(
                (window.x > 0 and left < 2)
                or (window.y > 0 and top < 2)
                or (window.x + TILE < WIDTH and right > TILE - 2)
                or (window.y + TILE < HEIGHT and bottom > TILE - 2)
            )
            boxes.append(box + torch.tensor([window.x, window.y, 0.0, 0.0, 0.0]))
            scores.append(score.item())
            labels.append(label.item())
            owner.append(number)
    if not boxes:
        return []
    table = torch.stack(boxes).double()
    iou = rotated_iou(table, table).numpy()
    of_first = rotated_iou(table, table, "iof").numpy()
    kept: list[int] = []
    for k in sorted(range(len(boxes)), key=lambda k: -scores[k] * (0.1 if cut[k] else 1)):
        rivals = [j for j in kept if (owner[j] != owner[k] if labels[j] == labels[k] else rule.across_classes)]
        if not any(iou[k, j] > rule.iou_threshold or (cut[k] and not cut[j] and of_first[k, j] > 0.5) for j in rivals):
            kept.append(k)
    return sorted((*boxes[k].tolist(), scores[k], labels[k]) for k in kept)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("most", [1, 12])
@pytest.mark.parametrize("seed", range(4))
def test_row_by_row_is_all_at_once(seed: int, most: int, across: bool) -> None:
    rng = np.random.default_rng(seed)
    tiles = [(random_tile(rng, int(rng.integers(0, most + 1))), window) for window in rows()]
    rule = MergeRule(0.1, across)
    merger = SceneMerger(WIDTH, HEIGHT, NAMES, rule)
    held = []
    for found, window in tiles:
        merger.add(found, window)
        held.append(merger.held)
    result = merger.finish()
    assert (result.scores.diff() <= 0).all()
    joined = zip(result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True)
    assert sorted((*box, score, label) for box, score, label in joined) == all_at_once(tiles, rule)
    if most > 1:
        assert max(held) < 0.6 * sum(len(found) for found, _ in tiles)


def test_what_is_held_does_not_grow_with_the_scene() -> None:
    rng = np.random.default_rng(0)
    most = []
    for height in (1_000, 10_000):
        merger = SceneMerger(300, height, NAMES, MergeRule(0.1))
        held = []
        for y in range(0, height - TILE + 1, STEP):
            for x in (0, 75, 150, 200):
                merger.add(random_tile(rng, 10), Window(x, y, TILE, TILE))
                held.append(merger.held)
        most.append(max(held))
        merger.finish()
        assert merger.held == 0
    assert most[1] < 1.5 * most[0]
