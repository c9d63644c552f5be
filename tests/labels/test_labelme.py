"""LabelMe and its relatives."""

from collections.abc import Callable
from pathlib import Path

from label_files import assert_means, assert_refused

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
