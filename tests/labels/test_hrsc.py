"""HRSC2016."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused, write_image
from rotanext.errors import Problems
from rotanext.labels import hrsc
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.polygons import boxes_to_corners

# A file as its own tool writes it, and the corners of the dog in it.
FOREIGN = (
    "x.xml",
    (
        "<HRSC_Image><Img_FileName>x</Img_FileName><Img_FileFmt>png</Img_FileFmt><Img_SizeWidth>100</Img_SizeWidth>"
        "<Img_SizeHeight>80</Img_SizeHeight><HRSC_Objects><HRSC_Object><Class_ID>dog</Class_ID><difficult>0</difficult>"
        "<mbox_cx>50</mbox_cx><mbox_cy>40</mbox_cy><mbox_w>20</mbox_w><mbox_h>10</mbox_h><mbox_ang>-1.5707963</mbox_ang>"
        "</HRSC_Object></HRSC_Objects></HRSC_Image>"
    ),
    [[45, 50], [45, 30], [55, 30], [55, 50]],
)


def test_a_file_of_the_tool_itself(tmp_path: Path) -> None:
    assert_means("hrsc", *FOREIGN, tmp_path)


def test_refused(tmp_path: Path, cli: Callable) -> None:
    assert_refused("hrsc", "x.xml", "<annotation/>", "found <annotation>; expected <HRSC_Image>", tmp_path, cli)


def test_the_layout_of_the_data_set(tmp_path: Path) -> None:
    for subset in ("Train", "Test"):
        (tmp_path / subset / "Annotations").mkdir(parents=True)
        (tmp_path / subset / "Annotations/x.xml").write_text(FOREIGN[1])
        write_image(tmp_path / subset / "AllImages/x.bmp")
        write_image(tmp_path / subset / "AllImages/y.bmp")
    found = hrsc.read(tmp_path, None, Problems(strict=True))
    assert [(p.subset, p.name) for p in found.images] == [("Test", "x.bmp"), ("Train", "x.bmp")]
    assert [path.name for path in found.unlabelled] == ["y.bmp", "y.bmp"]


CHANGED = (  # what is changed in the data set's own file: name of the image, class, message
    ("<Img_FileFmt>png<", "<Img_FileFmt>BMP<", "x.bmp", ["dog"], None),
    ("<Img_FileFmt>png<", "<Img_FileFmt>a/../b<", "x", ["dog"], None),
    ("<Class_ID>dog<", "<Class_ID>100000005<", "x.png", ["100000005"], None),
    ("<Class_ID>dog<", "<Class_Name>cat</Class_Name><Class_ID>dog<", "x.png", ["cat"], None),
    ("<mbox_w>20<", "<mbox_w>-20<", "x.png", [], "found sides of -20 x 10"),
    ("<mbox_cx>50</mbox_cx>", "", "x.png", [], "<HRSC_Object> without <mbox_cx>"),
)


@pytest.mark.parametrize(("old", "new", "name", "classes", "message"), CHANGED)
def test_names_classes_and_faults(old: str, new: str, name: str, classes: list, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(FOREIGN[1].replace(old, new))
    problems = Problems()
    found = hrsc.read(tmp_path, None, problems)
    assert [p.name for p in found.images] == [name]
    assert found.images[0].objects.names == classes
    assert problems.count == (message is not None)
    assert message is None or message in problems.first[0]


def test_classes_are_written_as_numbers_and_names(tmp_path: Path) -> None:
    shapes = Shapes()
    for name, angle in (("ship", 2.0), ("100000019", -2.0)):
        shapes.add(boxes_to_corners([50.0, 40.0, 20.0, 10.0, angle]), name, 1)
    hrsc.write(tmp_path, LabelSet([shapes.image("x.png", (100, 80))], ["ship", "100000019"]))
    text = (tmp_path / "Annotations/x.xml").read_text()
    assert re.findall("<Class_ID>(.*)</Class_ID>", text) == ["100000001", "100000019"]
    assert re.findall("<Class_Name>(.*)</Class_Name>", text) == ["ship", "100000019"]
    angles = [float(value) for value in re.findall("<mbox_ang>(.*)</mbox_ang>", text)]
    np.testing.assert_allclose(angles, [2 - math.pi, math.pi - 2], atol=1e-8)
    assert (tmp_path / "Annotations/x.xml").read_text().count("<Img_FileFmt>png</Img_FileFmt>") == 1
