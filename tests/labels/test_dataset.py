"""Labelled images in memory, and how their files are found."""

from pathlib import Path

import pytest
from PIL import Image

from label_files import write_coco, write_image, write_yolo
from rotanext.errors import Problems, UserError
from rotanext.labels.convert import FORMATS
from rotanext.labels.dataset import Shapes
from rotanext.objects import Objects


def test_two_images_that_may_be_meant_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "x/0001.png")
    write_image(tmp_path / "y/0001.png")
    write_coco(tmp_path / "all.json", "0001.png", "y/0001.png")
    problems = Problems()
    found = FORMATS["coco"].read(tmp_path / "all.json", None, problems)
    assert [p.file for p in found.images] == [tmp_path / "y/0001.png"]
    assert any("two images for 0001.png" in line for line in problems.first)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_photographs_that_are_turned_on_the_way_to_the_screen(turn: int, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train")
    (root / "images/train/a.png").unlink()
    tags = Image.Exif()
    tags[274] = turn
    Image.new("RGB", (100, 80)).save(root / "images/train/a.jpg", exif=tags)
    problems = Problems()
    if turn == 1:
        assert FORMATS["yolo-obb"].read(root, None, problems).count == 1
        return
    with pytest.raises(UserError, match="no labelled image"):
        FORMATS["yolo-obb"].read(root, None, problems)
    assert f"orientation {turn}" in problems.first[0]


def test_objects_is_the_core_s_own_type() -> None:
    assert isinstance(Shapes().image("p.png", (1, 1)).objects, Objects)
