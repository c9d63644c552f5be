"""HRSC2016."""

from collections.abc import Callable
from pathlib import Path

from label_files import assert_means, assert_refused

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
