"""LabelMe and its relatives."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused, write_image
from rotanext.errors import Problems
from rotanext.labels import labelme
from rotanext.labels.dataset import LabelSet, Shapes

# A file as its own tool writes it, and the corners of the dog in it.
FOREIGN = (
    "x.json",
    (
        '{"version": "5.0.1", "flags": {}, "shapes": [{"label": "dog", "points": [[50, 60], [10, 20]], "group_id": null, '
        '"shape_type": "rectangle", "flags": {}}], "imagePath": "..\\\\images\\\\x.png", "imageData": null, '
        '"imageHeight": 80, "imageWidth": 100}'
    ),
    [[10, 20], [50, 20], [50, 60], [10, 60]],
)


def test_a_file_of_the_tool_itself(tmp_path: Path) -> None:
    assert_means("labelme", *FOREIGN, tmp_path)


def test_refused(tmp_path: Path, cli: Callable) -> None:
    assert_refused("labelme", "x.json", '{"shapes": 3}', "no list of shapes", tmp_path, cli)


def read_shape(root: Path, **shape: object) -> tuple[LabelSet, Problems]:
    content = {
        "shapes": [{"label": "dog", "points": [[1, 2], [5, 2], [5, 4], [1, 4]]} | shape],
        "imageWidth": 100,
        "imageHeight": 80,
    }
    (root / "x.json").write_text(json.dumps(content))
    problems = Problems()
    return labelme.read(root, None, problems), problems


SHAPES = (  # keys of a shape, difficulty and score
    ({}, 0, math.nan),
    ({"shape_type": "rotation", "difficult": True, "score": 0.5}, 1, 0.5),  # X-AnyLabeling
    ({"flags": {"difficult": True}}, 1, math.nan),
    ({"flags": {"difficult": True, "truncated": True}}, 2, math.nan),
    ({"flags": None}, 0, math.nan),
    ({"shape_type": "rectangle"}, 0, math.nan),  # of four points
    ({"shape_type": "rectangle", "points": [[5, 2], [1, 4]]}, 0, math.nan),  # of two, in any order
)


@pytest.mark.parametrize(("shape", "difficult", "score"), SHAPES)
def test_shapes(shape: dict, difficult: int, score: float, tmp_path: Path) -> None:
    found, problems = read_shape(tmp_path, **shape)
    assert problems.count == 0
    np.testing.assert_array_equal(found.images[0].objects.corners, [[[1, 2], [5, 2], [5, 4], [1, 4]]])
    assert found.images[0].objects.difficult.tolist() == [difficult]
    np.testing.assert_array_equal(found.images[0].scores, [score])


BAD = (
    ({"shape_type": "circle"}, "a shape of the type 'circle'"),
    ({"points": None}, "an outline that is nothing"),
    ({"shape_type": "rectangle", "points": [[1, 2], 3]}, "points that are 3"),
    ({"label": 3}, "3"),
    ({"score": 2}, "2"),
    ({"flags": {"difficult": "perhaps"}}, "'perhaps'"),
)


@pytest.mark.parametrize(("shape", "message"), BAD)
def test_a_bad_shape_is_told_with_its_number(shape: dict, message: str, tmp_path: Path) -> None:
    found, problems = read_shape(tmp_path, **shape)
    assert (found.count, problems.count) == (0, 1)
    assert f"found in shape 1 {message}" in problems.first[0]


def test_images_are_found_by_either_name(tmp_path: Path) -> None:
    write_image(tmp_path / "x.jpg")
    found, _ = read_shape(tmp_path)
    assert found.images[0].file == tmp_path / "x.jpg"
    content = json.loads((tmp_path / "x.json").read_text()) | {"imagePath": "elsewhere.png"}
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert labelme.read(tmp_path, None, Problems(strict=True)).images[0].name == "x.jpg"
    write_image(tmp_path / "elsewhere.png")
    assert labelme.read(tmp_path, None, Problems(strict=True)).images[0].name == "elsewhere.png"


def test_subsets_are_folders_both_ways(tmp_path: Path) -> None:
    shapes = Shapes()
    for place, difficult in enumerate((0, 1, 2), 1):
        shapes.add(np.array([[1, 2], [5, 2], [5.00004, 4], [1, 4]]), "é", place, difficult, 0.5 if difficult else math.nan)
    labelme.write(tmp_path, LabelSet([shapes.image("x.png", (100, 80), subset="val")], ["é"]))
    content = json.loads((tmp_path / "val/x.json").read_text())
    assert [shape["flags"] for shape in content["shapes"]] == [{}, {"difficult": True}, {"truncated": True}]
    assert [shape.get("score") for shape in content["shapes"]] == [None, 0.5, 0.5]
    assert content["shapes"][0]["points"][2] == [5, 4]
    found = labelme.read(tmp_path, None, Problems(strict=True))
    assert [(p.subset, p.name) for p in found.images] == [("val", "x.png")]
    assert found.images[0].objects.difficult.tolist() == [0, 1, 2]
