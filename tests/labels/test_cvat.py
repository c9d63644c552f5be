"""CVAT for images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from label_files import assert_means, assert_refused
from rotanext.errors import Problems
from rotanext.labels.convert import FORMATS

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
