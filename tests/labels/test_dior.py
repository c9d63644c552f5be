"""DIOR-R."""

from pathlib import Path

from label_files import assert_means

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
