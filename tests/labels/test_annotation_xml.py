"""What Pascal VOC, roLabelImg and DIOR-R share, by way of VOC: where files lie, what they are called, how they are written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import write_image
from rotanext.errors import Problems, UserError
from rotanext.labels.annotation_xml import coordinates, read_folder, write_folder
from rotanext.labels.dataset import LabelledImage, LabelSet, Shapes
from rotanext.labels.values import Element, Invalid
from rotanext.labels.voc import shape
from rotanext.polygons import upright

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>"
DOG = f"<object><name>dog</name>{BOX}</object>"
SIZE = "<size><width>100</width><height>80</height></size>"


def write_xml(path: Path, inner: str = SIZE + DOG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>\n{inner}\n</annotation>")
    return path


def read(source: Path, problems: Problems | None = None, images: Path | None = None) -> LabelSet:
    return read_folder(source, images, Problems(strict=True) if problems is None else problems, shape, "Pascal VOC")


LAYOUTS = (  # places of an annotation and its image, and the subset they are in
    ("x.xml", "x.png", ""),
    ("Annotations/x.xml", "JPEGImages/x.png", ""),
    ("annotations/x.xml", "x.png", ""),
    ("labels/x.xml", "images/x.png", ""),
    ("val/Annotations/x.xml", "val/JPEGImages/x.png", "val"),
    ("val/x.xml", "val/x.png", "val"),
    ("Annotations/Oriented Bounding Boxes/x.xml", "JPEGImages-trainval/x.png", ""),
    ("Annotations/Oriented_Bounding_Boxes/x.xml", "JPEGImages-test/x.png", ""),
)


@pytest.mark.parametrize(("label", "image", "subset"), LAYOUTS)
def test_layouts(label: str, image: str, subset: str, tmp_path: Path) -> None:
    write_xml(tmp_path / label)
    write_image(tmp_path / image)
    found = read(tmp_path)
    assert [(p.name, p.subset, p.file, p.label) for p in found.images] == [("x.png", subset, tmp_path / image, tmp_path / label)]
    assert (found.class_names, found.unlabelled) == (["dog"], [])
    np.testing.assert_array_equal(found.images[0].objects.corners, [[[1, 2], [5, 2], [5, 4], [1, 4]]])


def test_lists_of_voc_tell_the_subsets(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_xml(tmp_path / f"Annotations/{name}.xml")
    for name, text in (("train", "a\n"), ("val", "b \n"), ("trainval", "a\nb\nc\n")):
        path = tmp_path / f"ImageSets/Main/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert [(p.name, p.subset) for p in read(tmp_path).images] == [("c", ""), ("a", "train"), ("b", "val")]


WRITTEN = (  # <filename>, the image that lies there, and the name that counts
    ("y.png", None, "x"),  # of another machine, or a copy
    ("x.png", None, "x.png"),
    ("y.png", "y.png", "y.png"),
    ("y.png", "x.jpg", "x.jpg"),  # the file's own name leads
    ("../../y.png", "y.png", "y.png"),
)


@pytest.mark.parametrize(("written", "image", "name"), WRITTEN)
def test_names_of_images(written: str, image: str | None, name: str, tmp_path: Path) -> None:
    write_xml(tmp_path / "x.xml", f"<filename>{written}</filename>{SIZE}{DOG}")
    if image:
        write_image(tmp_path / image)
    assert [p.name for p in read(tmp_path).images] == [name]


@pytest.mark.parametrize("inner", [DOG, f"<size><width>0</width><height>0</height></size>{DOG}", f"<size/>{DOG}"])
def test_a_size_that_nobody_told_is_unknown(inner: str, tmp_path: Path) -> None:
    found = read(write_xml(tmp_path / "x.xml", inner))
    assert (found.images[0].width, found.images[0].height) == (0, 0)


BAD = (  # an object, and what is found
    (f"<object>{BOX}</object>", "<object> without <name>"),
    ("<object><name>dog</name></object>", "<object> without <bndbox>"),
    ("<object><name>dog</name><bndbox><xmin>1</xmin></bndbox></object>", "<bndbox> without <ymin>"),
    (f"<object><name>dog</name><difficult>7</difficult>{BOX}</object>", "'7'"),
    (DOG.replace(">5<", ">x<"), "'x'"),
)


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_object_is_told_with_its_line_and_the_others_stay(bad: str, message: str, tmp_path: Path) -> None:
    problems = Problems()
    found = read(write_xml(tmp_path / "x.xml", f"{SIZE}{DOG}\n{bad}\n{DOG}"), problems)
    assert (found.count, problems.count) == (2, 1)
    assert problems.first[0].startswith(f"{tmp_path / 'x.xml'}:")
    assert f"found {message}" in problems.first[0]
    assert found.images[0].places == [2, 4]


def test_a_bad_file_is_told_and_the_others_stay(tmp_path: Path) -> None:
    write_xml(tmp_path / "a.xml")
    (tmp_path / "b.xml").write_text("<annotation>")
    write_xml(tmp_path / "c.xml", "<size><width>x</width><height>1</height></size>")
    (tmp_path / ".d.xml").write_text("no XML")  # what some systems leave beside each file
    problems = Problems()
    assert [p.name for p in read(tmp_path, problems).images] == ["a"]
    assert problems.count == 2
    (tmp_path / "a.xml").unlink()
    with pytest.raises(UserError, match="no labelled image; expected Pascal VOC files"):
        read(tmp_path, Problems())
    with pytest.raises(UserError, match="nothing there"):
        read(tmp_path / "none")


def test_images_that_lie_elsewhere(tmp_path: Path) -> None:
    write_xml(tmp_path / "labels/x.xml")
    for name in ("x", "y"):
        write_image(tmp_path / f"there/{name}.png")
    found = read(tmp_path / "labels", images=tmp_path / "there")
    assert [p.file for p in found.images] == [tmp_path / "there/x.png"]
    assert found.unlabelled == [tmp_path / "there/y.png"]


def test_coordinates_are_those_of_the_names() -> None:
    element = Element("box", {}, 1, children=[Element("x", {}, 1, " 1.5 "), Element("y", {}, 1, "nan")])
    assert coordinates(element, ("x",)) == [1.5]
    with pytest.raises(Invalid) as refused:
        coordinates(element, ("x", "y"))
    assert "a number in <y>" in refused.value.expected


def labelled(name: str, subset: str, difficult: int) -> LabelledImage:
    shapes = Shapes()
    shapes.add(upright((1, 2), (5, 4)), "a<b", 1, difficult)
    return shapes.image(name, (100, 80), subset=subset)


@pytest.mark.parametrize(
    ("inner", "lists"), [("Annotations", ["train/ImageSets/Main/trainval.txt", "val/ImageSets/Main/trainval.txt"]), ("", [])]
)
def test_writing(inner: str, lists: list[str], tmp_path: Path) -> None:
    tell: Callable[[np.ndarray], str] = lambda corners: f"<sum>{corners.sum():g}</sum>"  # noqa: E731
    data = LabelSet([labelled("a.png", "train", 0), labelled("b.png", "train", 1), labelled("c.v2", "val", 2)], ["a<b"])
    write_folder(tmp_path, data, "kind", tell, inner)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")) == lists
    if lists:
        assert (tmp_path / lists[0]).read_text() == "a\nb\n"
    for place, cut, hard in (("train", "0", "0"), ("train", "0", "1"), ("val", "1", "0")):
        name = {"00": "a", "01": "b", "10": "c.v2"}[cut + hard]
        text = (tmp_path / place / inner / f"{name}.xml").read_text()
        assert f"<truncated>{cut}</truncated>" in text
        assert f"<difficult>{hard}</difficult>" in text
        assert "<type>kind</type>" in text
        assert "<name>a&lt;b</name>" in text
        assert "<sum>24</sum>" in text
