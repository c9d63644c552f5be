"""DIOR-R."""

from pathlib import Path

import numpy as np

from label_files import assert_means
from rotanext.errors import Problems
from rotanext.labels import dior
from rotanext.labels.dataset import LabelSet, Shapes

# A file as its own tool writes it, and the corners of the dog in it.
FOREIGN = (
    "x.xml",
    (
        "<annotation><filename>x.png</filename><object><name>dog</name><robndbox><x_left_top>1</x_left_top><y_left_top>2</y_left_top>"
        "<x_right_top>30</x_right_top><y_right_top>4</y_right_top><x_right_bottom>28</x_right_bottom>"
        "<y_right_bottom>20</y_right_bottom><x_left_bottom>0</x_left_bottom><y_left_bottom>19</y_left_bottom></robndbox></object>"
        "</annotation>"
    ),
    [[1, 2], [30, 4], [28, 20], [0, 19]],
)


def test_a_file_of_the_tool_itself(tmp_path: Path) -> None:
    assert_means("dior-r", *FOREIGN, tmp_path)


def test_what_is_of_rolabelimg_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(FOREIGN[1].replace("<robndbox>", "<robndbox><angle>0.1</angle>"))
    problems = Problems()
    assert dior.read(tmp_path, None, problems).count == 0
    assert "That is roLabelImg's: --from rolabelimg." in problems.first[0]


def test_corners_are_written_as_they_are(tmp_path: Path) -> None:
    shapes = Shapes()
    shapes.add(np.array([[1, 2], [30, 4], [28, 20.12346], [0, 19]]), "dog", 1)
    dior.write(tmp_path, LabelSet([shapes.image("x.png", (100, 80), subset="val")], ["dog"]))
    text = (tmp_path / "val/Annotations/Oriented Bounding Boxes/x.xml").read_text()
    assert "<x_left_top>1</x_left_top><y_left_top>2</y_left_top>" in text
    assert "<x_right_bottom>28</x_right_bottom><y_right_bottom>20.1235</y_right_bottom>" in text
    assert "<x_left_bottom>0</x_left_bottom>" in text
