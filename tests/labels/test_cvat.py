"""CVAT for images."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused
from rotanext.errors import Problems, UserError
from rotanext.labels import cvat
from rotanext.labels.convert import FORMATS
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.polygons import boxes_to_corners, upright

# A file as its own tool writes it, and the corners of the dog in it.
FOREIGN = (
    "annotations.xml",
    (
        '<annotations><version>1.1</version><image id="0" name="x.png" width="100" height="80">'
        '<box label="dog" occluded="0" xtl="40" ytl="35" xbr="60" ybr="45" rotation="90.0" z_order="0"></box></image>'
        "</annotations>"
    ),
    [[55, 30], [55, 50], [45, 50], [45, 30]],
)


def test_a_file_of_the_tool_itself(tmp_path: Path) -> None:
    assert_means("cvat", *FOREIGN, tmp_path)


DOCTYPE = '<!DOCTYPE a [<!ENTITY x "y">]>'


REFUSED = (  # file, text, part of the message
    ("annotations.xml", f"{DOCTYPE}<annotations/>", "annotations.xml:1: found a document type"),
    ("annotations.xml", "<annotation/>", "found <annotation>; expected <annotations>"),
    ("annotations.xml", "<annotations><track/></annotations>", "found tracks (CVAT for video)"),
    ("annotations.xml", "<annotations>", "what is no XML (no element found"),
)


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_refused(name: str, text: str, message: str, tmp_path: Path, cli: Callable) -> None:
    assert_refused("cvat", name, text, message, tmp_path, cli)


def test_bad_objects_are_told_with_their_line(tmp_path: Path) -> None:
    good = '<box label="a" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    bad = ('<box label="a" xtl="1" ytl="1" xbr="9"/>', '<box label="a" xtl="nan" ytl="1" xbr="9" ybr="9"/>', "<ellipse/>",
           '<polygon label="a" points="1,1;2,2"/>', '<polygon label="" points="1,1;2,2;3,0"/>',
           '<box label="a" xtl="9" ytl="1" xbr="1" ybr="9"/>', '<polygon label="a" points="1,1;2,2;3,3;4,4;5,5"/>')  # fmt: skip
    inner = "\n".join((good, *bad))
    (tmp_path / "annotations.xml").write_text(
        f'<annotations><image name="a.png" width="10" height="8">{inner}</image></annotations>'
    )
    problems = Problems(keep=20)
    found = FORMATS["cvat"].read(tmp_path, None, problems)
    assert found.count == 1
    assert [message.split(":")[1] for message in problems.first] == [str(line) for line in range(2, 2 + len(bad))]


def write_xml(root: Path, inner: str, image: str = 'name="a.png" width="100" height="80"', meta: str = "") -> Path:
    text = f"<annotations>{meta}<image {image}>{inner}</image></annotations>"
    (root / "annotations.xml").write_text(text)
    return root


def test_classes_stand_in_the_order_of_the_task(tmp_path: Path) -> None:
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("ship", "", "dog"))
    box = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    for owner in ("task", "project"):
        meta = f"<meta><{owner}><labels>{labels}</labels></{owner}></meta>"
        found = cvat.read(write_xml(tmp_path, box, meta=meta), None, Problems(strict=True))
        assert found.class_names == ["ship", "dog", "cat"]


def test_attributes_tell_difficulty_and_score(tmp_path: Path) -> None:
    attributes = (
        '<attribute name="difficult">2</attribute><attribute name="score"> 0.5 </attribute><attribute name="x">y</attribute>'
    )
    found = cvat.read(
        write_xml(tmp_path, f'<box label="a" xtl="1" ytl="1" xbr="9" ybr="9">{attributes}</box><tag label="night"/>'),
        None,
        Problems(strict=True),
    )
    assert found.images[0].objects.difficult.tolist() == [2]
    assert found.images[0].scores.tolist() == [0.5]


@pytest.mark.parametrize(("subset", "wanted"), [("default", ""), ("Train", "Train"), ("", "")])
def test_subsets(subset: str, wanted: str, tmp_path: Path) -> None:
    root = write_xml(tmp_path, "", f'name="x/a.png" subset="{subset}" width="100" height="80"')
    found = cvat.read(root, None, Problems(strict=True))
    assert [(p.name, p.subset) for p in found.images] == [("a.png", wanted)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ('name="a.png" subset="../x" width="1" height="1"', "found the subset '../x'; expected a plain word"),
        ('name="" width="1" height="1"', "the name of an image's file"),
        ('name="a.png" height="1"', "found <image> without width"),
        ('name="a.png" width="0" height="1"', "found '0'"),
    ],
)
def test_bad_images_are_told(image: str, message: str, tmp_path: Path) -> None:
    problems = Problems()
    with pytest.raises(UserError, match="no labelled image"):
        cvat.read(write_xml(tmp_path, "", image), None, problems)
    assert message in problems.first[0]


def test_polygons_of_many_points_become_rectangles(tmp_path: Path) -> None:
    found = cvat.read(write_xml(tmp_path, '<polygon label="a" points="0,0;5,1;10,0;10,4;0,4;"/>'), None, Problems(strict=True))
    assert sorted(np.round(found.images[0].objects.corners[0], 6).tolist()) == [[0, 0], [0, 4], [10, 0], [10, 4]]
    assert found.notes[0].startswith("outlines: 1 ")


def test_rectangles_are_written_as_boxes_and_the_rest_as_polygons(tmp_path: Path) -> None:
    shapes = Shapes()
    shapes.add(upright((1, 2), (5, 4)), 'a"b', 1)
    shapes.add(boxes_to_corners([50.0, 40.0, 20.0, 10.0, -math.pi / 6]), "ship", 2, 1, 0.5)
    shapes.add(np.array([[0, 0], [9, 0], [8, 5], [1, 4]]), "ship", 3)
    cvat.write(tmp_path, LabelSet([shapes.image("a.png", (100, 80), subset="val")], ['a"b', "ship"]))
    first, second, third = re.findall("<(?:box|polygon) .*", (tmp_path / "annotations.xml").read_text())
    assert 'xtl="1" ytl="2" xbr="5" ybr="4"' in first
    assert "rotation" not in first
    assert 'xtl="40" ytl="35" xbr="60" ybr="45" rotation="330"' in second
    assert '<attribute name="difficult">1</attribute><attribute name="score">0.5</attribute>' in second
    assert 'points="0,0;9,0;8,5;1,4"' in third
    assert cvat.read(tmp_path, None, Problems(strict=True)).class_names == ['a"b', "ship"]
