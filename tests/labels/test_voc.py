"""Pascal VOC."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused, write_image, write_yolo
from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.labels import voc
from rotanext.labels.convert import FORMATS, convert_labels
from rotanext.labels.dataset import LabelSet, Shapes

# A file as its own tool writes it, and the corners of the dog in it.
FOREIGN = (
    "x.xml",
    (
        "<annotation><folder>f</folder><filename>x.png</filename><size><width>100</width><height>80</height><depth>3</depth></size>"
        "<object><name>dog</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object></annotation>"
    ),
    [[10, 20], [50, 20], [50, 60], [10, 60]],
)


def test_a_file_of_the_tool_itself(tmp_path: Path) -> None:
    assert_means("voc", *FOREIGN, tmp_path)


DOCTYPE = '<!DOCTYPE a [<!ENTITY x "y">]>'


REFUSED = (  # file, text, part of the message
    ("x.xml", f"{DOCTYPE}<annotation/>", "found a document type or entities; expected plain XML"),
    ("x.xml", "<a>" * 100 + "</a>" * 100, "nested more than 60 deep"),
)


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_refused(name: str, text: str, message: str, tmp_path: Path, cli: Callable) -> None:
    assert_refused("voc", name, text, message, tmp_path, cli)


def test_a_image_of_another_size_is_told(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", np.zeros((80, 100, 3), np.uint8))
    (tmp_path / "x.xml").write_text(FOREIGN[1].replace("<width>100", "<width>200"))
    problems = Problems()
    found = FORMATS["voc"].read(tmp_path, None, problems)
    assert (found.images[0].width, problems.count) == (100, 1)
    assert "found a size of 200 x 80 for x.png, which has 100 x 80" in problems.first[0]


def test_masks_are_no_images(tmp_path: Path) -> None:
    convert_labels(write_yolo(tmp_path / "in", "train"), tmp_path / "voc", "yolo-obb", "voc", placing="copy")
    write_image(tmp_path / "voc/train/SegmentationClass/a.png")
    found = FORMATS["voc"].read(tmp_path / "voc", None, Problems(strict=True))
    assert [p.file and p.file.parent.name for p in found.images] == ["JPEGImages"]
    assert found.unlabelled == []


def test_corners_are_written_as_the_upright_box_around_them(tmp_path: Path) -> None:
    shapes = Shapes()
    shapes.add(np.array([[5, 4], [1, 4], [1, 2.00004], [5, 2]]), "dog", 1)
    voc.write(tmp_path, LabelSet([shapes.image("x.png", (100, 80))], ["dog"]))
    text = (tmp_path / "Annotations/x.xml").read_text()
    assert "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>" in text
    assert (tmp_path / "ImageSets/Main/trainval.txt").read_text() == "x\n"


def test_ends_that_are_the_wrong_way_round(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(FOREIGN[1].replace("<xmin>10<", "<xmin>60<"))
    problems = Problems()
    assert voc.read(tmp_path, None, problems).count == 0
    assert "found a box from (60, 20) to (50, 60)" in problems.first[0]
