"""Detections of a scene's tiles, merged while the tiles come; boxes that may still have rivals are those of a strip."""

from typing import NamedTuple

import numpy as np
import torch

from rotanext.detections import Detections
from rotanext.ops import overlapping_polygons
from rotanext.polygons import boxes_to_corners

_REACH = 2.0  # pixels: a box that ends so near to an inner border of its tile may be cut by it
_COVERED = 0.5  # of a cut box, by a whole one
_CUT_WORTH = 0.1  # of its score, where a cut box competes: docs/log.md


class Window(NamedTuple):
    """A tile's place in its scene, in pixels."""

    x: int
    y: int
    width: int
    height: int


class MergeRule(NamedTuple):
    """When two boxes are one object: above this IoU, of one class or of any."""

    iou_threshold: float
    across_classes: bool = False


class _Held(NamedTuple):
    """Boxes that later tiles may still change. In NumPy: torch in a second thread slows a model's (docs/log.md)."""

    boxes: np.ndarray  # [N, 5] in the scene's pixels
    scores: np.ndarray  # [N]
    labels: np.ndarray  # [N]
    corners: np.ndarray  # [N, 4, 2] of the boxes, float64
    cut: np.ndarray  # [N] bool: an inner border of its tile may have cut it
    tile: np.ndarray  # [N] which tile it comes from, ascending

    def take(self, keep: np.ndarray) -> "_Held":
        return _Held(*(values[keep] for values in self))


class SceneMerger:
    """Greedy non-maximum suppression between the tiles of one scene, which come row by row.

    Of two boxes that are one object by the `MergeRule` the better one stays; boxes of one class and tile have competed before. A
    box that an inner border of its tile may have cut counts a tenth of its score here, and also gives way to a whole one that
    covers half of it. What no later tile can change is decided at once, so that only a strip of the scene is held; the result is
    that of all boxes together, unless a box reaches further than half a tile beyond its own tile.
    """

    def __init__(self, width: int, height: int, class_names: tuple[str, ...], rule: MergeRule) -> None:
        self.width, self.height, self.class_names, self.rule = width, height, class_names, rule
        boxes, whole = np.zeros((0, 5), np.float32), np.zeros(0, np.int64)
        self._held = _Held(boxes, boxes[:, 0], whole, np.zeros((0, 4, 2)), whole.astype(bool), whole)
        self._decided: list[Detections] = []
        self._tiles = self._row = 0

    @property
    def held(self) -> int:
        """How many boxes wait for later tiles."""
        return len(self._held.boxes)

    def add(self, found: Detections, window: Window) -> None:
        """Take in a tile's detections, in its own pixels; ValueError for a tile above the one before."""
        if window.y < self._row:
            raise ValueError(f"tiles come row by row; found one at y = {window.y} after one at {self._row}")
        if window.y > self._row:
            self._decide(window.y - window.height / 2)
        self._row = window.y
        boxes = found.boxes.numpy().copy()
        boxes[:, :2] += window.x, window.y
        corners = boxes_to_corners(boxes)
        low, high = corners.min(1), corners.max(1)
        right, bottom = window.x + window.width, window.y + window.height
        cut = (low[:, 0] < window.x + _REACH) & (window.x > 0) | (low[:, 1] < window.y + _REACH) & (window.y > 0)
        cut |= (high[:, 0] > right - _REACH) & (right < self.width) | (high[:, 1] > bottom - _REACH) & (bottom < self.height)
        tile = np.full(len(boxes), self._tiles)
        added = _Held(boxes, found.scores.numpy(), found.labels.numpy(), corners, cut, tile)
        self._held = _Held(*(np.concatenate(pair) for pair in zip(self._held, added, strict=True)))
        self._tiles += 1

    def finish(self) -> Detections:
        """All detections of the scene in its pixels, best first (ties: upper tiles first); the merger is empty then."""
        self._decide(float("inf"))
        parts, self._decided = self._decided, []
        boxes, scores = torch.cat([part.boxes for part in parts]), torch.cat([part.scores for part in parts])
        order = torch.argsort(scores, descending=True, stable=True)
        return Detections(boxes[order], scores[order], torch.cat([part.labels for part in parts])[order], self.class_names)

    def _decide(self, line: float) -> None:
        """Settle boxes above the line (y of the scene) that nothing undecided can suppress; whatever is settled is let go."""
        held = self._held
        rank = self._rank()
        stronger, weaker = self._rivals(rank)
        open_ = held.corners[..., 1].max(1) >= line
        kept = np.ones(len(open_), bool)
        # The strongest first, so that whoever suppresses has been decided upon, or is known to be open.
        order = np.argsort(rank[stronger], kind="stable")
        for winner, loser in zip(stronger[order].tolist(), weaker[order].tolist(), strict=True):
            if kept[winner]:
                if open_[winner]:
                    open_[loser] = True
                else:
                    kept[loser] = False
        boxes, scores, labels, *_ = (torch.from_numpy(values) for values in held.take(kept & ~open_))
        self._decided.append(Detections(boxes, scores, labels, self.class_names))
        self._held = held.take(kept & open_)

    def _rank(self) -> np.ndarray:
        """Places in the order in which boxes compete, 0 the best; ties go to the earlier one."""
        worth = np.where(self._held.cut, self._held.scores * np.float32(_CUT_WORTH), self._held.scores)
        rank = np.empty(len(worth), np.int64)
        rank[np.argsort(-worth, kind="stable")] = np.arange(len(worth))
        return rank

    def _rivals(self, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of which the first suppresses the second, if it is kept itself."""
        boxes, _, labels, corners, cut, tile = self._held
        one, other, iou = _overlapping(corners, tile, within_tiles=self.rule.across_classes)
        of_one_class, of_one_tile = labels[one] == labels[other], tile[one] == tile[other]
        rivals = np.where(of_one_class, ~of_one_tile, self.rule.across_classes)
        one, other, iou = one[rivals], other[rivals], iou[rivals]
        first = rank[one] < rank[other]
        stronger, weaker = np.where(first, one, other), np.where(first, other, one)
        area = boxes[:, 2].astype(np.float64) * boxes[:, 3]
        shared = iou * (area[one] + area[other]) / (1 + iou)
        covered = cut[weaker] & ~cut[stronger] & (shared > _COVERED * area[weaker])
        suppresses = (iou > self.rule.iou_threshold) | covered
        return stronger[suppresses], weaker[suppresses]


def _overlapping(corners: np.ndarray, tile: np.ndarray, within_tiles: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices (the first the smaller) and IoU of boxes that overlap and come from two tiles, or also from one.

    Two tiles' boxes meet only where what the boxes of each extend over does; `tile` is ascending.
    """
    low, high = corners.min(1), corners.max(1)
    members = np.split(np.arange(len(tile)), np.flatnonzero(np.diff(tile)) + 1) if len(tile) else []
    extents = [(low[boxes].min(0), high[boxes].max(0)) for boxes in members]
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for first, (low_first, high_first) in enumerate(extents):
        for second in range(first + (not within_tiles), len(extents)):
            low_second, high_second = extents[second]
            if (low_first > high_second).any() or (low_second > high_first).any():
                continue
            a, b = members[first], members[second]
            a = a[((low[a] <= high_second) & (high[a] >= low_second)).all(1)]
            b = b[((low[b] <= high_first) & (high[b] >= low_first)).all(1)]
            i, j, iou = overlapping_polygons(corners[a], corners[b])
            one, other = a[i], b[j]
            found.append((one[one < other], other[one < other], iou[one < other]))
    one, other, iou = (np.concatenate(values) for values in zip(*found, strict=True))
    return one, other, iou
