"""COCO, with outlines and with turned boxes."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused, write_coco, write_image
from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.labels import coco
from rotanext.labels.convert import FORMATS
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.polygons import boxes_to_corners, upright

# Files as the tool itself writes them, and the corners of the dog in them.
FOREIGN = (
    (
        "a.json",
        (
            '{"images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 80}], "categories": [{"id": 3, "name": "dog"}], '
            '"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 40, 40], "iscrowd": 0}]}'
        ),
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
    (
        "rotated.json",
        (
            '{"images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 80}], "categories": [{"id": 3, "name": "dog"}], '
            '"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [50, 40, 20, 10, 90]}]}'
        ),
        [[45, 50], [45, 30], [55, 30], [55, 50]],
    ),
)


@pytest.mark.parametrize(("name", "text", "corners"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_files_of_the_tool_itself(name: str, text: str, corners: list, tmp_path: Path) -> None:
    assert_means("coco", name, text, corners, tmp_path)


REFUSED = (  # file, text, part of the message
    ("x.json", "[]", "found a list; expected images, annotations and categories"),
    ("x.json", "[" * 100_000, "a file that is no JSON"),
    ("x.json", "{", "a file that is no JSON"),
)


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_refused(name: str, text: str, message: str, tmp_path: Path, cli: Callable) -> None:
    assert_refused("coco", name, text, message, tmp_path, cli)


def test_an_outline_becomes_the_rectangle_of_least_area(tmp_path: Path) -> None:
    text = (
        '{"images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 80}], "categories": [{"id": 3, "name": "dog"}], '
        '"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[10,20,30,20,50,20,50,60,30,55,10,60]]}]}'
    )
    (tmp_path / "outline.json").write_text(text)
    write_png(tmp_path / "x.png", np.zeros((80, 100, 3), np.uint8))
    for source in (tmp_path, tmp_path / "outline.json"):
        found = FORMATS["coco"].read(source, None, Problems(strict=True))
        assert [(p.name, p.width, p.height) for p in found.images] == [("x.png", 100, 80)]
        assert found.images[0].objects.names == ["dog"]
        got = found.images[0].objects.corners[0]
        assert sorted(np.round(got, 6).tolist()) == [[10, 20], [10, 60], [50, 20], [50, 60]]
        assert found.notes[0].startswith("outlines: 1 ")


def test_images_of_several_folders_keep_apart(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": name, "width": 10, "height": 8} for n, name in enumerate(("a/1.png", "b/1.png"))]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    found = FORMATS["coco"].read(tmp_path / "a.json", None, Problems(strict=True))
    assert [p.name for p in found.images] == ["a_1.png", "b_1.png"]
    assert found.notes[0].startswith("folders: ")


def test_subsets_with_images_of_one_name(tmp_path: Path) -> None:
    for subset in ("train2017", "val2017"):
        write_image(tmp_path / subset / "0001.png")
        write_coco(tmp_path / f"annotations/instances_{subset}.json", "0001.png")
    found = FORMATS["coco"].read(tmp_path, None, Problems(strict=True))
    assert {p.subset: p.file.parent.name for p in found.images if p.file} == {"train": "train2017", "val": "val2017"}


def test_boxes_that_are_turned_elsewhere_are_refused(tmp_path: Path) -> None:
    """As exports of CVAT have them: an upright bbox, and its rotation among the attributes."""
    path = write_coco(tmp_path / "ann.json", "a.png", attributes={"rotation": 45.0})
    problems = Problems()
    assert FORMATS["coco"].read(path, None, problems).count == 0
    assert "attributes.rotation" in problems.first[0]
    assert FORMATS["coco"].read(write_coco(path, "a.png", attributes={"rotation": 0.0}), None, Problems(strict=True)).count == 1


def read_entry(root: Path, **changes: object) -> tuple[LabelSet, Problems]:
    """The set with one annotation, that of `write_coco` with these changes; a value of None takes a key away."""
    path, problems = write_coco(root / "a.json", "a.png"), Problems()
    content = json.loads(path.read_text())
    entry = content["annotations"][0] | changes
    content["annotations"] = [{key: value for key, value in entry.items() if value is not None}]
    path.write_text(json.dumps(content))
    return coco.read(path, None, problems), problems


MARKS = (  # keys of an annotation, difficulty and score
    ({}, 0, math.nan),
    ({"iscrowd": 1}, 1, math.nan),
    ({"iscrowd": 1, "difficult": 2}, 2, math.nan),
    ({"score": 0.25}, 0, 0.25),
)


@pytest.mark.parametrize(("changes", "difficult", "score"), MARKS)
def test_difficulty_and_scores(changes: dict, difficult: int, score: float, tmp_path: Path) -> None:
    found, problems = read_entry(tmp_path, **changes)
    assert problems.count == 0
    assert found.images[0].objects.difficult.tolist() == [difficult]
    np.testing.assert_array_equal(found.images[0].scores, [score])


BAD = (
    ({"image_id": 9}, "image_id 9"),
    ({"image_id": True}, "image_id that is a bool"),
    ({"category_id": None}, "category_id that is a NoneType"),
    ({"category_id": 4}, "category_id 4"),
    ({"bbox": None}, "segmentation and bbox that are nothing"),
    ({"bbox": [1, 2, 3]}, "a bbox of 3 values"),
    ({"bbox": [1, 2, -3, 4]}, "sides of -3 x 4"),
    ({"bbox": [1, 2, "x", 4]}, "'x'"),
    ({"segmentation": {"counts": "x", "size": [1, 1]}}, "a mask (RLE)"),
    ({"segmentation": [[1, 2, 3, 4]]}, "an outline of 4 numbers"),
    ({"score": 1.5}, "1.5"),
    ({"difficult": 3}, "3"),
)


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_bad_annotation_is_told_with_its_number(changes: dict, message: str, tmp_path: Path) -> None:
    found, problems = read_entry(tmp_path, **changes)
    assert (len(found.images), found.count, problems.count) == (1, 0, 1)
    assert f"found in annotation 1 {message}" in problems.first[0]


def test_outlines_of_several_parts_become_one_rectangle(tmp_path: Path) -> None:
    found, _ = read_entry(tmp_path, segmentation=[[0, 0, 4, 0, 4, 2, 0, 2], [8, 0, 10, 0, 10, 2, 8, 2]])
    assert sorted(np.round(found.images[0].objects.corners[0], 6).tolist()) == [[0, 0], [0, 2], [10, 0], [10, 2]]
    assert found.notes[0].startswith("outlines: 1 of other than four points")


def test_bad_images_and_categories_are_told(tmp_path: Path) -> None:
    images = [{"id": 0, "file_name": "a.png"}, {"id": "1", "file_name": "b.png"}, {"id": 2}, 3]
    categories = [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}, {"id": 3, "name": ""}, {"name": "c"}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "categories": categories}))
    problems = Problems()
    found = coco.read(tmp_path, None, problems)
    assert ([p.name for p in found.images], found.class_names) == (["a.png"], ["a", "b"])  # in the order of their numbers
    assert (found.images[0].width, found.images[0].height) == (0, 0)
    places = [re.findall(r"in (\w+ \d)", line)[0] for line in problems.first]
    assert sorted(places) == ["category 3", "category 4", "image 2", "image 3", "image 4"]


SUBSETS = (  # names of files in annotations/, and the subsets that they are
    (["instances_train2017.json", "instances_val2017.json"], ["train", "val"]),
    (["instances_all.json"], [""]),
    (["dogs.json"], [""]),
    (["dogs.json", "cats.json"], ["cats", "dogs"]),
)


@pytest.mark.parametrize(("names", "subsets"), SUBSETS)
def test_subsets_are_called_after_their_files(names: list[str], subsets: list[str], tmp_path: Path) -> None:
    for name in names:
        write_coco(tmp_path / "annotations" / name, "a.png")
    assert coco.read(tmp_path, None, Problems(strict=True)).subsets == subsets


@pytest.mark.parametrize("boxes", [False, True])
def test_writing(boxes: bool, tmp_path: Path) -> None:
    shapes = Shapes()
    shapes.add(boxes_to_corners([50.0, 40.0, 20.0, 10.0, math.pi / 6]), "ship", 1, 2, 0.5)
    shapes.add(upright((1, 2), (5, 4)), "dog", 2)
    data = LabelSet([shapes.image("a.png", (100, 80), subset="val")], ["dog", "ship"])
    (coco.write_turned if boxes else coco.write)(tmp_path, data)
    content = json.loads((tmp_path / "annotations/instances_val.json").read_text())
    first, second = content["annotations"]
    assert content["categories"] == [{"id": 1, "name": "dog", "supercategory": ""}, {"id": 2, "name": "ship", "supercategory": ""}]
    assert (first["category_id"], first["difficult"], first["score"], first["area"]) == (2, 2, 0.5, 200)
    assert (second["id"], second["category_id"], second["area"]) == (2, 1, 8)
    assert not {"difficult", "score"} & second.keys()
    if boxes:
        assert (first["bbox"], first["segmentation"]) == ([50, 40, 20, 10, -30], [])  # counter-clockwise degrees
        assert "counter-clockwise" in content["info"]["description"]
    else:
        assert second["segmentation"] == [[1, 2, 5, 2, 5, 4, 1, 4]]
        assert (second["bbox"], content["info"]) == ([1, 2, 4, 2], {})
