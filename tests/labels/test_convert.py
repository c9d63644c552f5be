"""Labels from one format to another: what a format holds comes back, what it does not hold is told."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotanext.errors import Problems, UserError
from rotanext.images.reading import write_png
from rotanext.labels.convert import FORMATS, convert_labels, fit
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.objects import Objects
from rotanext.polygons import boxes_to_corners

NAMES = ("plane", "ship yard", "é<&>\"'", "0", "small-vehicle")
_coordinate = st.floats(-50, 500, allow_nan=False).map(lambda value: round(value, 3))
_side = st.floats(0.5, 300).map(lambda value: round(value, 3))


@st.composite
def _corners(draw: Callable) -> np.ndarray:
    """Rectangles at any angle, upright boxes, and quadrilaterals."""
    kind = draw(st.sampled_from(("turned", "upright", "any")))
    if kind == "any":
        return np.array(draw(st.lists(_coordinate, min_size=8, max_size=8))).reshape(4, 2)
    angle = draw(st.floats(-math.pi, math.pi)) if kind == "turned" else 0.0
    return boxes_to_corners([draw(_coordinate), draw(_coordinate), draw(_side), draw(_side), angle])


@st.composite
def _sets(draw: Callable) -> LabelSet:
    images = []
    for index, subset in enumerate(draw(st.lists(st.sampled_from(("train", "val")), min_size=1, max_size=3))):
        shapes = Shapes()
        for place in range(draw(st.integers(0, 4))):
            score = draw(st.one_of(st.just(float("nan")), st.floats(0.001, 1).map(lambda value: round(value, 4))))
            shapes.add(draw(_corners()), draw(st.sampled_from(NAMES)), place, draw(st.sampled_from((0, 1, 2))), score)
        images.append(shapes.image(f"p{index}.png", (60 + index, 40), subset=subset))
    return LabelSet(sorted(images, key=lambda p: (p.subset, p.name)), list(NAMES))


def place_images(target: Path, data: LabelSet, form: str) -> None:
    """Black images of the sizes that the set has, where the format wants them."""
    for image in data.images:
        place = target / FORMATS[form].folder.format(image.subset).strip("/") / image.name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_png(place, np.zeros((image.height, image.width, 3), np.uint8))


def assert_same(found: LabelSet, wanted: LabelSet, form: str) -> None:
    """Equal to 2e-4 pixel, and in everything else that the format holds."""
    assert [(p.name, p.subset, p.width, p.height) for p in found.images] == [
        (p.name, p.subset, p.width, p.height) for p in wanted.images
    ]
    for a, b in zip(found.images, wanted.images, strict=True):
        assert a.objects.names == b.objects.names
        wanted_corners = b.objects.corners
        if FORMATS[form].half_turn is not None:  # an angle of 0 may come back as one just below pi
            opposite = np.roll(wanted_corners, 2, 1)
            far = [np.abs(a.objects.corners - corners).max((1, 2), initial=0) for corners in (wanted_corners, opposite)]
            wanted_corners = np.where((far[0] <= far[1])[:, None, None], wanted_corners, opposite)
        np.testing.assert_allclose(a.objects.corners, wanted_corners, atol=4e-4, rtol=0)
        level = b.objects.difficult if FORMATS[form].difficult != 1 else np.where(b.objects.difficult == 2, 0, b.objects.difficult)
        np.testing.assert_array_equal(a.objects.difficult, level)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=_sets())
def test_what_a_format_holds_comes_back(form: str, data: LabelSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("set")
    problems = Problems(strict=True)
    fitted, _ = fit(data, FORMATS[form], problems)
    FORMATS[form].write(target, fitted)
    place_images(target, fitted, form)
    found = FORMATS[form].read(target, None, problems)
    assert_same(found, fitted, form)
    if FORMATS[form].scores:
        for a, b in zip(found.images, fitted.images, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6)
    again, lost = fit(found, FORMATS[form], problems)
    assert not [line for line in lost if not line.startswith("note: ")]
    assert_same(again, found, form)


@pytest.mark.parametrize("form", ["dota", "yolo-obb", "coco", "cvat", "labelme", "label-studio", "dior-r"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=_sets())
def test_quadrilaterals_are_kept(form: str, data: LabelSet) -> None:
    fitted, lost = fit(data, FORMATS[form], Problems(strict=True))
    assert all((a.objects.corners == b.objects.corners).all() for a, b in zip(fitted.images, data.images, strict=True))
    assert not [line for line in lost if line.startswith(("shapes", "angles", "first"))]


def dota_set(root: Path) -> Path:
    """Two images: a turned rectangle, an upright one, a skewed quadrilateral, one marked difficult and one cut; one empty."""
    (root / "labelTxt").mkdir(parents=True)
    (root / "images").mkdir()
    for name in ("a", "b"):
        write_png(root / "images" / f"{name}.png", np.full((80, 100, 3), 90, np.uint8))
    (root / "labelTxt/a.txt").write_text(
        "30 10 50 30 40 40 20 20 plane 0\n60 10 90 10 90 30 60 30 ship 1\n60 40 90 42 85 70 58 66 ship 2\n"
    )
    (root / "labelTxt/b.txt").write_text("")
    return root


LOSSES = (
    ("dota", []),
    ("yolo-obb", ["difficulty: 2 objects"]),
    ("coco", []),
    ("coco-rbox", ["shapes: 1 of 3 quadrilaterals"]),
    ("rolabelimg", ["shapes: 1 of 3", "cut objects: 1"]),
    ("hrsc", ["shapes: 1 of 3", "cut objects: 1"]),
    ("dior-r", ["cut objects: 1"]),
    ("cvat", []),
    ("labelme", []),
    ("label-studio", ["difficulty: 2"]),
    ("voc", ["angles: 2 of 3 objects", "cut objects: 1"]),
)


@pytest.mark.parametrize(("form", "lost"), LOSSES)
def test_a_conversion_tells_what_is_lost_and_comes_back(form: str, lost: list[str], tmp_path: Path, cli: Callable) -> None:
    source = dota_set(tmp_path / "dota")
    done = cli("labels", "convert", source, tmp_path / "out", "--from", "dota", "--to", form)
    assert done.code == 0, done.err
    assert "2 images with 3 objects of 2 classes" in done.err
    for line in lost:
        assert f"lost: {line}" in done.err
    assert done.err.count("lost: ") == len(lost)
    assert ("nothing was lost" in done.err) == (not lost)
    links = [path for path in (tmp_path / "out").rglob("*.png") if path.is_symlink()]
    assert len(links) == 2
    back = cli("labels", "convert", tmp_path / "out", tmp_path / "back", "--from", form, "--to", "dota", "--copy")
    assert back.code == 0, back.err
    assert not any(path.is_symlink() for path in (tmp_path / "back").rglob("*.png"))
    texts = [(root / "labelTxt/a.txt").read_text().splitlines() for root in (source, tmp_path / "back")]
    numbers = [np.array([line.split()[:8] for line in text], float) for text in texts]
    if not lost:
        np.testing.assert_allclose(numbers[0], numbers[1], atol=2e-4)
        assert [line.split()[8:] for line in texts[0]] == [line.split()[8:] for line in texts[1]]
    assert (tmp_path / "back/labelTxt/b.txt").read_text() == ""


# One file of each kind as its own tool writes it, and the corners and class that it means.
FOREIGN = (
    (
        "voc",
        "x.xml",
        "<annotation><folder>f</folder><filename>x.png</filename><size><width>100</width><height>80</height><depth>3</depth></size>"
        "<object><name>dog</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object></annotation>",
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
    (
        "rolabelimg",
        "x.xml",
        "<annotation><filename>x</filename><size><width>100</width><height>80</height></size><object><type>robndbox</type>"
        "<name>dog</name><robndbox><cx>50</cx><cy>40</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox></object></annotation>",
        [[55, 30], [55, 50], [45, 50], [45, 30]],
    ),
    (
        "dior-r",
        "x.xml",
        "<annotation><filename>x.png</filename><object><name>dog</name><robndbox><x_left_top>1</x_left_top><y_left_top>2</y_left_top>"
        "<x_right_top>30</x_right_top><y_right_top>4</y_right_top><x_right_bottom>28</x_right_bottom>"
        "<y_right_bottom>20</y_right_bottom><x_left_bottom>0</x_left_bottom><y_left_bottom>19</y_left_bottom></robndbox></object>"
        "</annotation>",
        [[1, 2], [30, 4], [28, 20], [0, 19]],
    ),
    (
        "hrsc",
        "x.xml",
        "<HRSC_Image><Img_FileName>x</Img_FileName><Img_FileFmt>png</Img_FileFmt><Img_SizeWidth>100</Img_SizeWidth>"
        "<Img_SizeHeight>80</Img_SizeHeight><HRSC_Objects><HRSC_Object><Class_ID>dog</Class_ID><difficult>0</difficult>"
        "<mbox_cx>50</mbox_cx><mbox_cy>40</mbox_cy><mbox_w>20</mbox_w><mbox_h>10</mbox_h><mbox_ang>-1.5707963</mbox_ang>"
        "</HRSC_Object></HRSC_Objects></HRSC_Image>",
        [[45, 50], [45, 30], [55, 30], [55, 50]],
    ),
    (
        "cvat",
        "annotations.xml",
        '<annotations><version>1.1</version><image id="0" name="x.png" width="100" height="80">'
        '<box label="dog" occluded="0" xtl="40" ytl="35" xbr="60" ybr="45" rotation="90.0" z_order="0"></box></image>'
        "</annotations>",
        [[55, 30], [55, 50], [45, 50], [45, 30]],
    ),
    (
        "labelme",
        "x.json",
        '{"version": "5.0.1", "flags": {}, "shapes": [{"label": "dog", "points": [[50, 60], [10, 20]], "group_id": null, '
        '"shape_type": "rectangle", "flags": {}}], "imagePath": "..\\\\images\\\\x.png", "imageData": null, '
        '"imageHeight": 80, "imageWidth": 100}',
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
    (
        "label-studio",
        "export.json",
        '[{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-x.png"}, "annotations": [{"result": [{"original_width": 100, '
        '"original_height": 80, "value": {"x": 50, "y": 25, "width": 20, "height": 25, "rotation": 90, '
        '"rectanglelabels": ["dog"]}, "type": "rectanglelabels"}, {"type": "choices", "value": {"choices": ["good"]}}]}]}]',
        [[50, 20], [50, 40], [30, 40], [30, 20]],
    ),
    (
        "label-studio",
        "min.json",
        '[{"image": "s3://bucket/x.png", "id": 1, "label": [{"x": 10, "y": 25, "width": 40, "height": 50, "rotation": 0, '
        '"rectanglelabels": ["dog"], "original_width": 100, "original_height": 80}]}]',
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
    (
        "coco",
        "a.json",
        '{"images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 80}], "categories": [{"id": 3, "name": "dog"}], '
        '"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 40, 40], "iscrowd": 0}]}',
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
    (
        "coco",
        "rotated.json",  # Detectron2: counter-clockwise degrees
        '{"images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 80}], "categories": [{"id": 3, "name": "dog"}], '
        '"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [50, 40, 20, 10, 90]}]}',
        [[45, 50], [45, 30], [55, 30], [55, 50]],
    ),
    (
        "coco",
        "outline.json",  # six points, whose rectangle of least area is upright
        '{"images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 80}], "categories": [{"id": 3, "name": "dog"}], '
        '"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[10,20,30,20,50,20,50,60,30,55,10,60]]}]}',
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
)


@pytest.mark.parametrize(("form", "name", "text", "corners"), FOREIGN, ids=[f"{row[0]} {row[1]}" for row in FOREIGN])
def test_files_of_the_tools_themselves(form: str, name: str, text: str, corners: list, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    write_png(tmp_path / "x.png", np.zeros((80, 100, 3), np.uint8))
    problems = Problems(strict=True)
    for source in (tmp_path, tmp_path / name):
        found = FORMATS[form].read(source, None, problems)
        assert [(p.name, p.width, p.height) for p in found.images] == [("x.png", 100, 80)]
        assert found.images[0].objects.names == ["dog"]
        got = found.images[0].objects.corners[0]
        if name == "outline.json":
            assert sorted(np.round(got, 6).tolist()) == sorted(map(list, np.array(corners, float).tolist()))
            assert found.notes[0].startswith("outlines: 1 ")
        else:
            np.testing.assert_allclose(got, corners, atol=1e-5)


YOLO_LAYOUTS = (  # folders of images and labels, what data.yaml says, and the subsets
    ("images/train", "labels/train", "path: .\ntrain: images/train\nval: images/train\nnames: {0: dog}\n", "train"),
    ("images/train", "labels/train", "train: images/train\nnames:\n  0: dog\n", "train"),
    ("train/images", "train/labels", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['dog']\n", "train"),
    ("images/val", "labels/val", "names: [dog]\n", "val"),
    ("images", "labels", "names: [dog]\n", ""),
    (".", ".", "names:\n- dog\n", ""),
)


@pytest.mark.parametrize(("images", "labels", "text", "subset"), YOLO_LAYOUTS)
def test_layouts_of_yolo(images: str, labels: str, text: str, subset: str, tmp_path: Path) -> None:
    for folder in (images, labels):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write_png(tmp_path / images / "x.png", np.zeros((80, 100, 3), np.uint8))
    (tmp_path / labels / "x.txt").write_text("0 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75\n0 0.3 0.5 0.4 0.5\n")
    (tmp_path / "data.yaml").write_text(text)
    found = FORMATS["yolo-obb"].read(tmp_path, None, Problems(strict=True))
    assert [p.subset for p in found.images] == [subset]
    np.testing.assert_allclose(found.images[0].objects.corners, [[[10, 20], [50, 20], [50, 60], [10, 60]]] * 2)


DOCTYPE = '<!DOCTYPE a [<!ENTITY x "y">]>'
BILLION = (
    '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation><object><name>&b;</name></object></annotation>'
)
REFUSED = (  # format, file, text, part of the message
    ("voc", "x.xml", f"{DOCTYPE}<annotation/>", "found a document type or entities; expected plain XML"),
    ("rolabelimg", "x.xml", BILLION, "x.xml:1: found a document type"),
    ("cvat", "annotations.xml", f"{DOCTYPE}<annotations/>", "annotations.xml:1: found a document type"),
    ("cvat", "annotations.xml", "<annotation/>", "found <annotation>; expected <annotations>"),
    ("cvat", "annotations.xml", "<annotations><track/></annotations>", "found tracks (CVAT for video)"),
    ("cvat", "annotations.xml", "<annotations>", "what is no XML (no element found"),
    ("hrsc", "x.xml", "<annotation/>", "found <annotation>; expected <HRSC_Image>"),
    ("voc", "x.xml", "<a>" * 100 + "</a>" * 100, "nested more than 60 deep"),
    ("coco", "x.json", "[]", "found a list; expected images, annotations and categories"),
    ("coco", "x.json", "[" * 100_000, "a file that is no JSON"),
    ("coco", "x.json", "{", "a file that is no JSON"),
    ("labelme", "x.json", '{"shapes": 3}', "no list of shapes"),
    ("label-studio", "x.json", "[1]", "no labelled image"),
    ("yolo-obb", "data.yaml", "names: [a, a]", "two classes of one name"),
    ("yolo-obb", "data.yaml", "nc: 3", "no names of classes"),
    ("yolo-obb", "data.yaml", "a: &a [1]\nb: *a\nnames: [x]", "what cannot be read (aliases)"),
    ("yolo-obb", "data.yaml", "!!python/object/apply:os.system [ls]", "what cannot be read"),
    ("yolo-obb", "data.yaml", "names: {1: x}", "names that are not numbered 0, 1, 2"),
    ("yolo-obb", "data.yaml", "names: [x]", "no labelled image"),
    ("dota", "x.txt", "", "no labelled image"),
)


@pytest.mark.parametrize(("form", "name", "text", "message"), REFUSED)
def test_refused(form: str, name: str, text: str, message: str, tmp_path: Path, cli: Callable) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(text)
    done = cli("labels", "convert", tmp_path / "in", tmp_path / "out", "--from", form, "--to", "dota")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


OPTIONS = (
    (("--from", "dotta", "--to", "coco"), "--from is 'dotta'; nearest: 'dota'"),
    (("--from", "dota", "--to", "yolo"), "--to is 'yolo'; nearest: 'yolo-obb'"),
    (("--from", "dota", "--to", "coco", "--place-images", "move"), "--place-images is 'move'"),
    (("--from", "dota", "--to", "coco", "--images", "{tmp}/none"), "none: found no such folder"),
    (("--from", "coco", "--to", "dota"), "no labelled image"),
)


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_bad_options(options: tuple[str, ...], message: str, tmp_path: Path, cli: Callable) -> None:
    source = dota_set(tmp_path / "dota")
    done = cli("labels", "convert", source, tmp_path / "out", *(option.format(tmp=tmp_path) for option in options))
    assert done.code == 2
    assert message in done.err


def test_targets_in_use(tmp_path: Path, cli: Callable) -> None:
    source = dota_set(tmp_path / "dota")
    options = ("--from", "dota", "--to", "coco")
    assert "inside or around" in cli("labels", "convert", source, source / "out", *options).err
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").touch()
    assert "found files in the target" in cli("labels", "convert", source, tmp_path / "out", *options).err
    assert cli("labels", "convert", source, tmp_path / "out", *options, "--overwrite").code == 0
    assert "found a file" in cli("labels", "convert", source, tmp_path / "out/file", *options).err
    assert "nothing there" in cli("labels", "convert", tmp_path / "none", tmp_path / "new", *options).err


def test_names_never_lead_out_of_the_target(tmp_path: Path) -> None:
    """An image called `../../x.png`, or by an absolute path, is written below OUT, and no file elsewhere is linked."""
    secret = tmp_path / "secret.png"
    write_png(secret, np.zeros((80, 100, 3), np.uint8))
    images = [
        {"id": n, "file_name": name, "width": 100, "height": 80}
        for n, name in enumerate(("../secret.png", str(secret), "..", "a/../../b.png", "x\0.png", ".hidden.png"))
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    problems = Problems()
    done = convert_labels(tmp_path / "in", tmp_path / "out" / "deep", "coco", "labelme", problems=problems)
    assert problems.count == 4  # three names that are none, and secret.png a second time
    assert done.images == 2
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["b.json", "secret.json"]


def test_images_of_several_folders_keep_apart(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": name, "width": 10, "height": 8} for n, name in enumerate(("a/1.png", "b/1.png"))]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    found = FORMATS["coco"].read(tmp_path / "a.json", None, Problems(strict=True))
    assert [p.name for p in found.images] == ["a_1.png", "b_1.png"]
    assert found.notes[0].startswith("folders: ")


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


def test_a_image_of_another_size_is_told(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", np.zeros((80, 100, 3), np.uint8))
    (tmp_path / "x.xml").write_text(FOREIGN[0][2].replace("<width>100", "<width>200"))
    problems = Problems()
    found = FORMATS["voc"].read(tmp_path, None, problems)
    assert (found.images[0].width, problems.count) == (100, 1)
    assert "found a size of 200 x 80 for x.png, which has 100 x 80" in problems.first[0]


def test_labels_without_images_go_where_no_size_is_needed(tmp_path: Path) -> None:
    (tmp_path / "in/labelTxt").mkdir(parents=True)
    (tmp_path / "in/labelTxt/a.txt").write_text("1 1 9 1 9 5 1 5 a 0\n")
    assert convert_labels(tmp_path / "in", tmp_path / "dota", "dota", "dota").objects == 1
    with pytest.raises(UserError, match="no image that could be converted"):
        convert_labels(tmp_path / "in", tmp_path / "coco", "dota", "coco")


def test_classes_that_would_become_one_are_refused() -> None:
    shapes = Shapes()
    for name in ("a b", "a-b"):
        shapes.add(np.array([[0, 0], [9, 0], [9, 9], [0, 9.0]]), name, 1)
    data = LabelSet([shapes.image("p.png", (10, 10))], ["a b", "a-b"])
    with pytest.raises(UserError, match="cannot be told apart"):
        fit(data, FORMATS["dota"], Problems())


def test_objects_is_the_core_s_own_type() -> None:
    assert isinstance(Shapes().image("p.png", (1, 1)).objects, Objects)
