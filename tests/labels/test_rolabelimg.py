"""roLabelImg."""

from collections.abc import Callable
from pathlib import Path

from label_files import assert_means, assert_refused

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
