"""COCO, with outlines and with turned boxes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused, write_coco, write_image
from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.labels.convert import FORMATS

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
