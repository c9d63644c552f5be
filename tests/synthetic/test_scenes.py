"""The synthetic scenes: repeatable, and labelled as truly as they are drawn."""

import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rotanext.boxes import boxes_to_corners, corners_to_boxes
from rotanext.data.dota import read_objects
from rotanext.errors import Problems, UserError
from rotanext.objects import Objects
from rotanext.ops.reference import rotated_iou
from rotanext.synthetic.scenes import CLASS_NAMES, draw_scene, make_dataset

COUNT, SIDE = 24, 512


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, Objects]]:
    return [draw_scene((3, index), SIDE, SIDE) for index in range(COUNT)]


def _boxes(objects: Objects) -> torch.Tensor:
    return corners_to_boxes(torch.from_numpy(objects.corners))


def test_the_same_seed_draws_the_same_scene_and_another_does_not() -> None:
    first, again, other = draw_scene((1, 2), 200, 300), draw_scene((1, 2), 200, 300), draw_scene((1, 3), 200, 300)
    assert first[0].shape == (200, 300, 3)
    assert first[0].dtype == np.uint8
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1].corners, again[1].corners)
    assert first[1].names == again[1].names
    assert (first[0] != other[0]).mean() > 0.5


def test_a_generator_is_the_same_as_its_seed() -> None:
    np.testing.assert_array_equal(draw_scene(np.random.default_rng([4, 1]), 96, 96)[0], draw_scene((4, 1), 96, 96)[0])


def test_labels_are_rectangles_at_least_half_inside(scenes: list[tuple[np.ndarray, Objects]]) -> None:
    whole = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float32)
    for _, objects in scenes:
        assert objects.corners.shape == (len(objects.names), 4, 2)
        assert objects.difficult.shape == (len(objects.names),)
        boxes = _boxes(objects)
        assert (boxes[:, 2] >= boxes[:, 3]).all()
        assert (boxes[:, 3] > 5).all()
        # The rectangle that the box stands for has the label's very corners, in some order.
        distance = torch.cdist(boxes_to_corners(boxes), torch.from_numpy(objects.corners))
        assert distance.amin(2).max() < 1e-3 if len(boxes) else True
        for corners in objects.corners.astype(np.float32):
            share = cv2.intersectConvexConvex(corners, whole)[0] / cv2.contourArea(corners)
            assert share > 0.499


def test_content(scenes: list[tuple[np.ndarray, Objects]]) -> None:
    counts = Counter(name for _, objects in scenes for name in objects.names)
    assert set(counts) <= set(CLASS_NAMES)
    assert len(counts) >= 8
    assert sum(int(objects.difficult.sum()) for _, objects in scenes) >= 5
    assert {0, 1} == {int(d) for _, objects in scenes for d in objects.difficult}
    boxes = torch.cat([_boxes(objects) for _, objects in scenes])
    turns = torch.histc(boxes[:, 4].float(), 6, -math.pi / 2, math.pi / 2)
    assert (turns > 0.04 * len(boxes)).all()
    assert (boxes[:, 2] / boxes[:, 3]).max() > 4


def test_some_scenes_have_no_objects() -> None:
    empty = [not draw_scene((0, index), 64, 64, density=1.0, background=None)[1].names for index in range(40)]
    asked = draw_scene((0, 0), 256, 256, background=True)
    assert any(empty)
    assert asked[1].corners.shape == (0, 4, 2)
    assert asked[0].std() > 3


def test_labels_hardly_overlap(scenes: list[tuple[np.ndarray, Objects]]) -> None:
    for _, objects in scenes:
        boxes = _boxes(objects).float()
        if len(boxes) > 1:
            iou = rotated_iou(boxes, boxes)
            assert iou.fill_diagonal_(0).max() < 0.25


def test_objects_stand_out_from_what_surrounds_them(scenes: list[tuple[np.ndarray, Objects]]) -> None:
    contrast: dict[str, list[float]] = {}
    for image, objects in scenes:
        labelled = np.zeros((SIDE, SIDE), np.uint8)
        for corners in objects.corners:
            cv2.fillConvexPoly(labelled, np.rint(corners).astype(np.int32), 1)
        for corners, name in zip(objects.corners, objects.names, strict=True):
            inner = np.zeros((SIDE, SIDE), np.uint8)
            cv2.fillConvexPoly(inner, np.rint(corners).astype(np.int32), 1)
            x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - 8, 0, SIDE)
            x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 8, 0, SIDE)
            part, mask = image[y0:y1, x0:x1].astype(float), inner[y0:y1, x0:x1] > 0
            ground = labelled[y0:y1, x0:x1] == 0
            if ground.any():
                middle = np.median(part[ground], axis=0)
                contrast.setdefault(name, []).append(float(np.abs(part[mask] - middle).mean()))
    assert len(contrast) >= 8
    for name, values in contrast.items():
        assert np.mean(values) > 18, name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (64, 48), (33, 517)])
def test_any_size(height: int, width: int) -> None:
    for coast in (False, True):
        image, _ = draw_scene((8, 1), height, width, coast=coast)
        assert image.shape == (height, width, 3)


def test_dataset_on_disk_is_a_dota_folder_and_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    total = make_dataset(tmp_path / "one", 8, (72, 96), seed=11)
    assert make_dataset(tmp_path / "two", 8, (72, 96), seed=11, workers=2) == total
    names = [f"scene_{index:05d}" for index in range(8)]
    assert sorted(path.name for path in (tmp_path / "one" / "images").iterdir()) == [f"{name}.png" for name in names]
    found = 0
    for index, name in enumerate(names):
        for folder, suffix in (("images", ".png"), ("labelTxt", ".txt")):
            one, two = (tmp_path / side / folder / (name + suffix) for side in ("one", "two"))
            assert one.read_bytes() == two.read_bytes()
        image, objects = draw_scene((11, index), 72, 96)
        read = cv2.imread(str(tmp_path / "one" / "images" / f"{name}.png"))
        assert read is not None
        np.testing.assert_array_equal(read[..., ::-1], image)
        problems = Problems(strict=True)
        back = read_objects(tmp_path / "one" / "labelTxt" / f"{name}.txt", problems)
        assert back.names == objects.names
        np.testing.assert_allclose(back.corners, objects.corners, atol=0.06)
        np.testing.assert_array_equal(back.difficult, objects.difficult)
        found += len(back.names)
    assert found == total


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        make_dataset(tmp_path / "file", 1, 32, seed=0)
