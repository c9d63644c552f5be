"""A scene in tiles is the scene in one window: on drawn objects, with a detector that sees only pixels."""

import threading
import time

import cv2
import numpy as np
import pytest
import torch

from rotanext.boxes import boxes_to_corners, corners_to_boxes
from rotanext.detections import Detections
from rotanext.images.scenes import Crop, ImageScene, shrunk
from rotanext.inference.stitch import MergeRule
from rotanext.inference.tiles import Tiling, detect_scene
from rotanext.ops import rotated_iou

NAMES = ("thing",)
RULE = MergeRule(0.1)
CELL, LONGEST = 130, 110


def draw_scene(width: int, height: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy scene with one bright rectangle in most cells of a grid, and their boxes `[N, 5]`."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 60, (height, width, 3), dtype=np.uint8)
    boxes = []
    for y in range(0, height - CELL + 1, CELL):
        for x in range(0, width - CELL + 1, CELL):
            if rng.random() < 0.1:
                continue
            long, angle = rng.uniform(20, LONGEST), rng.uniform(-np.pi / 2, np.pi / 2)
            box = [x + CELL / 2, y + CELL / 2, long, rng.uniform(12, long), angle]
            corners = boxes_to_corners(torch.tensor([box]))[0].numpy()
            room = (CELL - np.ptp(corners, 0)) / 2
            if (room < 4).any():
                continue
            corners += rng.uniform(-room + 3, room - 3)
            cv2.fillPoly(image, [np.rint(corners - 0.5).astype(np.int32)], (250, 240, 230))
            boxes.append(corners_to_boxes(torch.from_numpy(corners[None]).float())[0].numpy())
    return image, np.array(boxes)


def find_bright(crops: list[Crop]) -> list[Detections]:
    """A box around every bright patch; its score comes from its looks alone, so that cut patches often score best."""
    results = []
    for crop in crops:
        count, patches, extents, _ = cv2.connectedComponentsWithStats((crop[..., 0] > 128).astype(np.uint8))
        corners, scores = [], []
        for k in range(1, count):
            x, y, width, height = extents[k, :4]
            points = np.argwhere(patches[y : y + height, x : x + width] == k)[:, ::-1] + np.array([x, y])
            if len(points) > 20:
                centre, sides, turn = cv2.minAreaRect((points + 0.5).astype(np.float32))
                corners.append(cv2.boxPoints((centre, (sides[0] + 1, sides[1] + 1), turn)))  # points are pixels' centres
                scores.append(0.2 + 0.8 * (len(points) * 0.6180339 % 1))
        boxes = corners_to_boxes(torch.from_numpy(np.reshape(corners, (-1, 4, 2)).astype(np.float32)))
        values = torch.tensor(scores, dtype=torch.float32)
        order = values.argsort(descending=True)
        results.append(Detections(boxes[order], values[order], torch.zeros(len(order), dtype=torch.int64), NAMES))
    return results


def found_once(boxes: torch.Tensor, expected: torch.Tensor) -> tuple[float, int]:
    """Share of the expected boxes found with an IoU above 0.7, and how many boxes are too many."""
    iou = rotated_iou(boxes.double(), expected.double())
    matched = (iou.amax(0) > 0.7).double().mean().item() if len(boxes) else 0.0
    return matched, len(boxes) - len(expected)


@pytest.mark.parametrize(("tile", "overlap"), [(512, 128), (400, 200), (777, 130)])
def test_tiles_give_what_one_window_gives(tile: int, overlap: int) -> None:
    image, boxes = draw_scene(2900, 2300, seed=tile)
    [whole] = find_bright([image])
    assert found_once(whole.boxes, torch.from_numpy(boxes)) == (1.0, 0)
    assert len(boxes) > 250
    tiled = detect_scene(ImageScene(image), find_bright, NAMES, Tiling(tile, overlap, batch_size=3), RULE)
    matched, too_many = found_once(tiled.boxes, whole.boxes)
    assert matched >= 0.995
    assert too_many == 0
    same = rotated_iou(tiled.boxes, whole.boxes).amax(1)
    assert same.min() > 0.97  # whole ones stay, not their halves


def test_without_regard_for_borders_halves_would_stay() -> None:
    """The test above can fail: the plain rule, by score alone, leaves halves."""
    image, _ = draw_scene(2900, 2300, seed=512)
    [whole] = find_bright([image])
    parts = []
    assert Tiling(512, 128).count(2900, 2300) == len(Tiling(512, 128).windows(2900, 2300))
    for window in Tiling(512, 128).windows(2900, 2300):
        [found] = find_bright([ImageScene(image).read(*window)[0]])
        shift = found.boxes.new_tensor([window.x, window.y, 0, 0, 0])
        parts.append((found.boxes + shift, found.scores, found.labels))
    from rotanext.ops import rotated_nms

    boxes, scores, labels = (torch.cat(values) for values in zip(*parts, strict=True))
    plain = boxes[rotated_nms(boxes, scores, labels, 0.1)]
    assert found_once(plain, whole.boxes)[0] < 0.99


@pytest.mark.parametrize(("batch_size", "readers"), [(1, 1), (4, 1), (5, 3), (100, 2)])
def test_batches_and_readers_change_nothing(batch_size: int, readers: int) -> None:
    image, _ = draw_scene(1100, 900, seed=1)
    expected = detect_scene(ImageScene(image), find_bright, NAMES, Tiling(300, 120), RULE)
    found = detect_scene(ImageScene(image), find_bright, NAMES, Tiling(300, 120, batch_size, readers), RULE)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)


class Masked(ImageScene):
    """A scene of which only some pixels hold data."""

    def __init__(self, image: np.ndarray, valid: np.ndarray) -> None:
        super().__init__(image)
        self.valid = valid

    def read(self, x: int, y: int, width: int, height: int) -> tuple[Crop, np.ndarray | None]:
        return super().read(x, y, width, height)[0], self.valid[y : y + height, x : x + width]


def count_crops(scene: ImageScene, tiling: Tiling) -> int:
    seen: list[Crop] = []

    def detect(crops: list[Crop]) -> list[Detections]:
        seen.extend(crops)
        return find_bright(crops)

    detect_scene(scene, detect, NAMES, tiling, RULE)
    return len(seen)


def test_tiles_without_anything_to_see_are_skipped() -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    image[:100] = 7
    tiling = Tiling(100, 0)
    assert count_crops(ImageScene(image), tiling) == 6
    image[50, 250] = 8  # one pixel is something
    assert count_crops(ImageScene(image), tiling) == 7
    valid = np.ones((300, 300), bool)
    valid[100:200, :200] = False
    assert count_crops(Masked(image, valid), tiling) == 5
    valid[200:, 100:] = False
    image[200:, 100:] = np.random.default_rng(1).integers(0, 255, (100, 200, 3))
    valid[299, 150] = valid[299, 160] = True
    image[299, 150] = image[299, 160] = 9  # two pixels of one colour, the rest of this tile holds no data
    assert count_crops(Masked(image, valid), tiling) == 3
    assert count_crops(ImageScene(np.zeros((100, 100, 3), np.uint8)), tiling) == 1  # the only tile of an image
    assert count_crops(Masked(image[:100, :100], np.zeros((100, 100), bool)), tiling) == 0


def test_boxes_where_there_is_no_data_are_dropped() -> None:
    valid = np.ones((100, 100), bool)
    valid[:, 50:] = False
    centres = torch.tensor([[49.9, 20.0], [50.1, 20.0], [99.0, 99.0], [-3.0, 20.0], [103.0, 20.0]])
    boxes = torch.cat([centres, torch.tensor([[8.0, 4.0, 0.1]]).expand(5, 3)], 1)
    found = Detections(boxes, torch.arange(5, 0, -1) / 10, torch.zeros(5, dtype=torch.long), NAMES)
    scene = Masked(np.full((100, 100, 3), 9, np.uint8), valid)
    kept = detect_scene(scene, lambda crops: [found], NAMES, Tiling(100, 0), RULE)
    assert kept.scores.tolist() == pytest.approx([0.5, 0.2, 0.1])  # what lies outside the tile is not judged


def test_a_scene_smaller_than_a_tile() -> None:
    assert Tiling(1024, 200).windows(30, 20) == [(0, 0, 30, 20)]
    assert Tiling(100, 0).windows(100, 101) == [(0, 0, 100, 100), (0, 1, 100, 100)]


def test_progress_is_told() -> None:
    image, _ = draw_scene(900, 600, seed=2)
    told: list[tuple[int, int]] = []
    detect_scene(ImageScene(image), find_bright, NAMES, Tiling(300, 0, 4), RULE, lambda done, total: told.append((done, total)))
    assert told == [(4, 6), (6, 6), (6, 6)]


class Failing(ImageScene):
    """A scene that cannot be read from some row on."""

    def read(self, x: int, y: int, width: int, height: int) -> tuple[Crop, np.ndarray | None]:
        if y >= 300:
            raise OSError("the disk is gone")
        return super().read(x, y, width, height)


def test_errors_of_reading_and_detecting_end_it_at_once() -> None:
    image, _ = draw_scene(900, 900, seed=3)
    threads = threading.active_count()
    with pytest.raises(OSError, match="disk is gone"):
        detect_scene(Failing(image), find_bright, NAMES, Tiling(300, 0, 2, readers=3), RULE)

    def broken(crops: list[Crop]) -> list[Detections]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        detect_scene(ImageScene(image), broken, NAMES, Tiling(300, 0, 2, readers=3), RULE)
    deadline = time.monotonic() + 60
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads


class Counting(ImageScene):
    """A scene that notes how many windows were read before the first was computed."""

    reads = 0

    def read(self, x: int, y: int, width: int, height: int) -> tuple[Crop, np.ndarray | None]:
        self.reads += 1
        return super().read(x, y, width, height)


def test_few_windows_are_read_in_advance() -> None:
    image, _ = draw_scene(1200, 1200, seed=4)
    scene = Counting(image)
    ahead: list[int] = []
    computed = 0

    def detect(crops: list[Crop]) -> list[Detections]:
        nonlocal computed
        time.sleep(0.02)
        computed += len(crops)
        ahead.append(scene.reads - computed)
        return find_bright(crops)

    detect_scene(scene, detect, NAMES, Tiling(100, 0, batch_size=2, readers=2), RULE)
    assert computed == 144
    assert 0 < max(ahead) <= 5  # a batch, one for each reader, and the one just asked for


class OnDisk:
    """A scene that is not in memory."""

    def __init__(self, image: np.ndarray) -> None:
        self._image = ImageScene(image)
        self.height, self.width = image.shape[:2]
        self.read, self.overview, self.close = self._image.read, self._image.overview, self._image.close


@pytest.mark.parametrize("pixels", [1, 10**9], ids=["by an overview", "whole"])
def test_resizing(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotanext.images.scenes._WHOLE", pixels)
    image = np.full((300, 900, 3), 100, np.uint8)
    image[:, 450:] = 200
    small, scale = shrunk(OnDisk(image), 90)
    assert (small.width, small.height, scale) == (90, 30, 0.1)
    assert small.image[:, :44].max() == 100
    assert small.image[:, 46:].min() == 200
    large, scale = shrunk(OnDisk(image), 1800)
    assert (large.width, large.height, scale) == (1800, 600, 2.0)
