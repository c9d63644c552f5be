"""Labelled images in memory, and how their files are found."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from label_files import write_coco, write_image, write_yolo
from rotanext.errors import Problems, UserError
from rotanext.labels.convert import FORMATS
from rotanext.labels.dataset import (
    ImageFiles,
    Invalid,
    LabelSet,
    Shapes,
    existing,
    finished,
    is_validation,
    nothing_read,
    orientation,
    plain_name,
    size_of,
    stem_of,
    subset_folders,
)
from rotanext.objects import Objects


def test_two_images_that_may_be_meant_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "x/0001.png")
    write_image(tmp_path / "y/0001.png")
    write_coco(tmp_path / "all.json", "0001.png", "y/0001.png")
    problems = Problems()
    found = FORMATS["coco"].read(tmp_path / "all.json", None, problems)
    assert [p.file for p in found.images] == [tmp_path / "y/0001.png"]
    assert any("two images for 0001.png" in line for line in problems.first)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_photographs_that_are_turned_on_the_way_to_the_screen(turn: int, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train")
    (root / "images/train/a.png").unlink()
    tags = Image.Exif()
    tags[274] = turn
    Image.new("RGB", (100, 80)).save(root / "images/train/a.jpg", exif=tags)
    problems = Problems()
    if turn == 1:
        assert FORMATS["yolo-obb"].read(root, None, problems).count == 1
        return
    with pytest.raises(UserError, match="no labelled image"):
        FORMATS["yolo-obb"].read(root, None, problems)
    assert f"orientation {turn}" in problems.first[0]


def test_objects_is_the_core_s_own_type() -> None:
    assert isinstance(Shapes().image("p.png", (1, 1)).objects, Objects)


def shapes(*names: str) -> Shapes:
    made = Shapes()
    for place, name in enumerate(names, 1):
        made.add(np.full((4, 2), place), name, place, place % 3, place / 10)
    return made


def test_taking_objects_takes_all_that_is_theirs() -> None:
    whole = shapes("a", "b", "c").image("p.png", (4, 3), subset="val")
    for index in (np.array([2, 0]), np.array([True, False, True])):
        part = whole.take(index)
        order = [2, 0] if index.dtype != bool else [0, 2]
        assert part.objects.names == [whole.objects.names[i] for i in order]
        assert part.places == [i + 1 for i in order]
        np.testing.assert_array_equal(part.scores, whole.scores[order])
        np.testing.assert_array_equal(part.objects.difficult, whole.objects.difficult[order])
        assert (part.name, part.subset, part.width) == ("p.png", "val", 4)
    none = whole.take(np.zeros(3, bool))
    assert none.objects.corners.shape == (0, 4, 2)
    assert (none.places, len(none.scores)) == ([], 0)


def test_counts_and_subsets() -> None:
    data = LabelSet([shapes("a", "b").image("p", (1, 1), subset="val"), shapes().image("q", (1, 1), subset="train")])
    assert (data.count, data.subsets) == (2, ["train", "val"])


@pytest.mark.parametrize(
    ("name", "stem"), [("a.png", "a"), ("a.v2", "a.v2"), ("a.v2.TIF", "a.v2"), ("a", "a"), ("x/b.jpg", "x/b"), (".png", ".png")]
)
def test_stems(name: str, stem: str) -> None:
    assert stem_of(name) == stem


@pytest.mark.parametrize(
    ("subset", "wanted"), [("val", True), ("Valid", True), ("validation", True), ("train", False), ("", False)]
)
def test_words_for_validation(subset: str, wanted: bool) -> None:
    assert is_validation(subset) == wanted


NAMES = (  # as a label file has it, and as the name of a file
    ("a.png", "a.png"),
    ("x/a.png", "x/a.png"),
    ("x\\a.png", "x/a.png"),
    ("./x//a.png", "x/a.png"),
    ("../../a.png", "a.png"),
    ("/home/somebody/a.png", "a.png"),
    ("C:\\images\\a.png", "a.png"),
    (" a b.png ", "a b.png"),
    ("", None),
    ("..", None),
    ("/", None),
    (".hidden.png", None),
    ("x/.git/a.png", None),
    ("a\0.png", None),
    ("é" * 91, None),  # 182 bytes
    ("é" * 90, "é" * 90),
)


@pytest.mark.parametrize(("name", "wanted"), NAMES)
def test_names_that_are_safe(name: str, wanted: str | None) -> None:
    assert plain_name(name) == wanted


def test_files_are_found_by_what_label_files_call_them(tmp_path: Path) -> None:
    for place in ("a/1.png", "b/1.jpg", "b/2.tif", "b/.hidden.png", ".cache/3.png", "b/notes.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    files = ImageFiles([tmp_path, tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in files.unused()] == ["a/1.png", "b/1.jpg", "b/2.tif"]
    assert files.find("1.png") == tmp_path / "a/1.png"
    assert files.find("2.png") == tmp_path / "b/2.tif"  # another ending
    assert files.find("2") == tmp_path / "b/2.tif"
    assert files.find("x/y/2.tif") == tmp_path / "b/2.tif"  # folders of another machine
    assert files.find("1", "b") == tmp_path / "b/1.jpg"
    assert files.find("3.png") is files.find("../..") is files.find("notes.txt") is None
    assert files.unused() == []
    with pytest.raises(Invalid, match="two images for 1"):
        files.find("1")


def test_a_finished_set_is_in_order_and_each_image_is_once_in_it() -> None:
    images = [
        shapes("b").image("z.png", (1, 1)),
        shapes("a").image("y.png", (1, 1)),
        shapes("c").image("y.jpg", (1, 1)),
        shapes("a").image("y.png", (1, 1), subset="val"),
    ]
    problems = Problems()
    found = finished(LabelSet(images, ["b"]), problems)
    assert [(p.subset, p.name) for p in found.images] == [("", "y.jpg"), ("", "z.png"), ("val", "y.png")]
    assert found.class_names == ["b", "a", "c"]  # those listed first, then the others by name
    assert (problems.count, "a second image named y" in problems.first[0]) == (1, True)


def test_folders_in_names_go_unless_that_joins_two() -> None:
    alike = [shapes().image(name, (1, 1)) for name in ("a/1.png", "b/1.png", "b/2.png")]
    found = finished(LabelSet(alike), Problems(strict=True))
    assert [p.name for p in found.images] == ["2.png", "a_1.png", "b_1.png"]
    assert found.notes[0].startswith("folders: ")
    apart = [shapes().image("a/1.png", (1, 1), subset="train"), shapes().image("b/1.png", (1, 1), subset="val")]
    found = finished(LabelSet(apart), Problems(strict=True))
    assert ([p.name for p in found.images], found.notes) == (["1.png", "1.png"], [])


def test_sizes_come_from_the_file_where_there_is_one(tmp_path: Path) -> None:
    problems, label = Problems(), tmp_path / "a.xml"
    assert size_of(None, (3, 4), label, problems) == (3, 4)
    file = write_image(tmp_path / "a.png", 20, 10)
    assert size_of(file, (0, 0), label, problems) == size_of(file, (20, 10), label, problems) == (20, 10)
    assert problems.count == 0
    assert size_of(file, (10, 20), label, problems) == (20, 10)
    assert "found a size of 10 x 20 for a.png, which has 20 x 10" in problems.first[0]
    file.write_bytes(b"no image")
    assert size_of(file, (7, 8), label, problems) == (7, 8)
    assert problems.count == 2


def test_orientations_that_make_no_sense_are_upright(tmp_path: Path) -> None:
    for turn, wanted in ((6, 6), (8, 8), (0, 1), (9, 1)):
        tags = Image.Exif()
        tags[274] = turn
        Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg", exif=tags)
        assert orientation(tmp_path / "a.jpg") == wanted
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert orientation(tmp_path / "b.jpg") == orientation(tmp_path / "none.jpg") == orientation(tmp_path / "c.png") == 1


def test_folders_of_subsets(tmp_path: Path) -> None:
    assert subset_folders(tmp_path / "none", ("labels",)) == []
    for name in ("val/labels", "train/labels", "other/things"):
        (tmp_path / name).mkdir(parents=True)
    assert subset_folders(tmp_path, ("labels", "annotations")) == [("train", tmp_path / "train"), ("val", tmp_path / "val")]
    (tmp_path / "annotations").mkdir()
    assert subset_folders(tmp_path, ("labels", "annotations")) == [("", tmp_path)]


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    assert existing(tmp_path, "a folder") == tmp_path
    with pytest.raises(UserError, match="found nothing there; expected a folder"):
        existing(tmp_path / "none", "a folder")
    problems = Problems()
    problems.note("a.txt:1: the first")
    assert str(nothing_read(tmp_path, "labels", problems)).endswith("Check the folder and --from. a.txt:1: the first")
