"""Label Studio."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused
from rotanext.errors import Problems, UserError
from rotanext.labels import label_studio
from rotanext.labels.convert import FORMATS
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.polygons import boxes_to_corners

# Files as the tool itself writes them, and the corners of the dog in them.
FOREIGN = (
    (
        "export.json",
        (
            '[{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-x.png"}, "annotations": [{"result": [{"original_width": 100, '
            '"original_height": 80, "value": {"x": 50, "y": 25, "width": 20, "height": 25, "rotation": 90, '
            '"rectanglelabels": ["dog"]}, "type": "rectanglelabels"}, {"type": "choices", "value": {"choices": ["good"]}}]}]}]'
        ),
        [[50, 20], [50, 40], [30, 40], [30, 20]],
    ),
    (
        "min.json",
        (
            '[{"image": "s3://bucket/x.png", "id": 1, "label": [{"x": 10, "y": 25, "width": 40, "height": 50, "rotation": 0, '
            '"rectanglelabels": ["dog"], "original_width": 100, "original_height": 80}]}]'
        ),
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
)


@pytest.mark.parametrize(("name", "text", "corners"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_files_of_the_tool_itself(name: str, text: str, corners: list, tmp_path: Path) -> None:
    assert_means("label-studio", name, text, corners, tmp_path)


def test_refused(tmp_path: Path, cli: Callable) -> None:
    assert_refused("label-studio", "x.json", "[1]", "no labelled image", tmp_path, cli)


def test_label_studio_scores(tmp_path: Path) -> None:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["ship"]}
    rows = [{"type": "rectanglelabels", "value": value, "original_width": 100, "original_height": 80} for _ in range(3)]
    rows[0]["score"], rows[1]["score"] = 0.9, 0.0
    task = {"data": {"image": "a.png"}, "predictions": [{"score": 0.0, "result": rows}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task, {"data": {"image": "b.png"}, "annotations": [{"result": rows}]}]))
    found = FORMATS["label-studio"].read(tmp_path / "tasks.json", None, Problems(strict=True)).images
    np.testing.assert_array_equal(found[0].scores, [0.9, 0.0, 0.0])
    np.testing.assert_array_equal(found[1].scores, [0.9, 0.0, np.nan])


RECTANGLE = {"x": 10, "y": 25, "width": 40, "height": 50, "rectanglelabels": ["dog"]}


def write_task(root: Path, *results: dict, image: object = "a.png", **task: object) -> Path:
    rows = [{"original_width": 100, "original_height": 80, "type": "rectanglelabels"} | result for result in results]
    (root / "tasks.json").write_text(json.dumps([{"data": {"image": image}, "annotations": [{"result": rows}]} | task]))
    return root


ADDRESSES = (  # what a task calls its image, and the name of the image
    ("a.png", "a.png"),
    ("/data/local-files/?d=ships/a%20b.png", "a b.png"),
    ("https://host.example/x/a%C3%A9.png?token=1", "aé.png"),
    ("s3://bucket/folder/a.png", "a.png"),
    ("/data/upload/3/12345678-a.png", "12345678-a.png"),  # no image a.png lies there
)


@pytest.mark.parametrize(("address", "name"), ADDRESSES)
def test_addresses_of_images(address: str, name: str, tmp_path: Path) -> None:
    found = label_studio.read(write_task(tmp_path, {"value": RECTANGLE}, image=address), None, Problems(strict=True))
    assert [p.name for p in found.images] == [name]


def test_polygons_in_percent(tmp_path: Path) -> None:
    four = {"points": [[10, 25], [50, 25], [50, 75], [10, 75]], "polygonlabels": ["dog"]}
    five = {"points": [[10, 25], [30, 30], [50, 25], [50, 75], [10, 75]], "polygonlabels": ["dog"]}
    found = label_studio.read(write_task(tmp_path, {"value": four}, {"value": five}), None, Problems(strict=True))
    np.testing.assert_allclose(found.images[0].objects.corners[0], [[10, 20], [50, 20], [50, 60], [10, 60]])
    assert found.notes == ["outlines: 1 of other than four points became the rectangle of least area around them"]


def test_of_several_annotations_the_first_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    def annotation(name: str, **more: object) -> dict:
        return {"result": [{"original_width": 100, "original_height": 80, "value": RECTANGLE | {"rectanglelabels": [name]}}]} | more

    annotations = [annotation("cancelled", was_cancelled=True), annotation("first"), annotation("second")]
    found = label_studio.read(write_task(tmp_path, annotations=annotations), None, Problems(strict=True))
    assert found.images[0].objects.names == ["first"]
    assert found.notes == ["annotations: of 1 tasks with several, the first was read"]


BAD = (  # a result's keys, and the message
    ({"value": RECTANGLE | {"width": -1}}, "result 1, sides of -1 x 50"),
    ({"value": {"rectanglelabels": ["dog"]}, "type": "ellipselabels"}, "result 1, a result of the type 'ellipselabels'"),
    ({"value": RECTANGLE | {"rectanglelabels": []}}, "result 1, nothing"),
    ({"value": RECTANGLE | {"x": "left"}}, "result 1, 'left'"),
    ({"value": RECTANGLE, "score": 7}, "result 1, 7"),
    ({"value": 3}, "result 1, a value that is 3"),
)


@pytest.mark.parametrize(("result", "message"), BAD)
def test_a_bad_result_is_told_with_its_task_and_number(result: dict, message: str, tmp_path: Path) -> None:
    problems = Problems()
    found = label_studio.read(write_task(tmp_path, result, {"value": RECTANGLE}), None, problems)
    assert (found.count, problems.count) == (1, 1)
    assert f"found in task 1, {message}" in problems.first[0]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"data": {"text": "x"}}, "found in task 1 no image; expected data with image"),
        ({"data": {"image": "http://[x/a.png"}}, "the address 'http://[x/a.png'"),
        ({"annotations": [{"result": [{"value": RECTANGLE}]}]}, "found in task 1 no size of the image"),
    ],
)
def test_a_bad_task_is_told(task: dict, message: str, tmp_path: Path) -> None:
    problems = Problems()
    with pytest.raises(UserError, match="no labelled image"):
        label_studio.read(write_task(tmp_path, **task), None, problems)
    assert message in problems.first[0]


@pytest.mark.parametrize(("score", "held"), [(math.nan, "annotations"), (0.5, "predictions")])
def test_writing(score: float, held: str, tmp_path: Path) -> None:
    shapes = Shapes()
    shapes.add(boxes_to_corners([50.0, 40.0, 20.0, 16.0, math.pi / 2]), "dog", 1, score=score)
    shapes.add(np.array([[0, 0], [10, 0], [8, 4], [1, 4]]), "a<b", 2, score=score)
    label_studio.write(tmp_path, LabelSet([shapes.image("a b.png", (100, 80), subset="val")], ["dog", "a<b"]))
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"] == {"width": 100, "height": 80, "subset": "val", "image": "images/val/a%20b.png"}
    first, second = task[held][0]["result"]
    assert first["value"] == {"x": 58, "y": 37.5, "width": 20, "height": 20, "rotation": 90, "rectanglelabels": ["dog"]}
    assert second["value"] == {"points": [[0, 0], [10, 0], [8, 5], [1, 5]], "polygonlabels": ["a<b"]}
    assert first.get("score", math.nan) == pytest.approx(score, nan_ok=True)
    assert '<Label value="a&lt;b"/>' in (tmp_path / "labels.xml").read_text()
