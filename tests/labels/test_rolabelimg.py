"""roLabelImg."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused
from rotanext.errors import Problems
from rotanext.labels import rolabelimg
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.polygons import boxes_to_corners

# A file as its own tool writes it, and the corners of the dog in it.
FOREIGN = (
    "x.xml",
    (
        "<annotation><filename>x</filename><size><width>100</width><height>80</height></size><object><type>robndbox</type>"
        "<name>dog</name><robndbox><cx>50</cx><cy>40</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox></object></annotation>"
    ),
    [[55, 30], [55, 50], [45, 50], [45, 30]],
)


def test_a_file_of_the_tool_itself(tmp_path: Path) -> None:
    assert_means("rolabelimg", *FOREIGN, tmp_path)


BILLION = (
    '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation><object><name>&b;</name></object></annotation>'
)


def test_refused(tmp_path: Path, cli: Callable) -> None:
    assert_refused("rolabelimg", "x.xml", BILLION, "x.xml:1: found a document type", tmp_path, cli)


def test_upright_boxes_are_read_too(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>"
    (tmp_path / "x.xml").write_text(f"<annotation><object><name>dog</name>{box}</object></annotation>")
    found = rolabelimg.read(tmp_path, None, Problems(strict=True))
    np.testing.assert_array_equal(found.images[0].objects.corners, [[[1, 2], [5, 2], [5, 4], [1, 4]]])


BAD = (  # what is changed in the tool's own file, and the message
    ("<w>20<", "<w>-20<", "found sides of -20 x 10; expected sides from 0"),
    ("<angle>1.5707963<", "<angle>x<", "expected a number in <angle>"),
    ("<cx>50</cx>", "<x_left_top>1</x_left_top>", "That is DIOR-R's: --from dior-r."),
)


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_what_is_no_rectangle(old: str, new: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(FOREIGN[1].replace(old, new))
    problems = Problems()
    assert rolabelimg.read(tmp_path, None, problems).count == 0
    assert message in problems.first[0]


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0, -0.3, math.pi])
def test_angles_are_written_from_0_to_pi(angle: float, tmp_path: Path) -> None:
    shapes = Shapes()
    shapes.add(boxes_to_corners([50.0, 40.0, 20.0, 10.0, angle]), "dog", 1)
    rolabelimg.write(tmp_path, LabelSet([shapes.image("x.png", (100, 80))], ["dog"]))
    text = (tmp_path / "x.xml").read_text()
    cx, cy, w, h, written = (float(re.findall(f"<{name}>(.*?)</{name}>", text)[0]) for name in ("cx", "cy", "w", "h", "angle"))
    np.testing.assert_allclose((cx, cy, w, h), (50, 40, 20, 10), atol=1e-4)
    assert 0 <= written < math.pi
    assert abs(math.sin(written - angle)) < 1e-8
