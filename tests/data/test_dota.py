from pathlib import Path

import numpy as np
import pytest

from rotanext.data.dota import (
    CLASS_LISTS,
    class_names_in,
    inside,
    list_items,
    parse_labels,
    read_class_list,
    read_objects,
    write_objects,
)
from rotanext.data.task1 import read_task1
from rotanext.errors import Problems, UserError
from rotanext.objects import Objects

SQUARE = "10 10 50 10 50 40 10 40"
GOOD = f"{SQUARE} plane 0\n"


def label(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FINE = {
    # what the file holds, difficulties of the objects read
    "plain": (GOOD, [0]),
    "difficult": (f"{SQUARE} plane 1\n", [1]),
    "no difficulty": (f"{SQUARE} plane\n", [0]),
    "no line end": (GOOD.strip(), [0]),
    "header lines": (f"imagesource:GoogleEarth\ngsd:0.139\n{GOOD}", [0]),
    "empty header lines": (f"imagesource:\nGSD:null\n{GOOD}", [0]),
    "byte-order mark": (b"\xef\xbb\xbf" + GOOD.encode(), [0]),
    "byte-order mark and header": (b"\xef\xbb\xbfimagesource:x\r\n" + GOOD.encode(), [0]),
    "Windows line ends": (f"{SQUARE} plane 0\r\n60 10 90 10 90 40 60 40 plane 2\r\n", [0, 2]),
    "tabs": (GOOD.replace(" ", "\t"), [0]),
    "blank lines and spaces": (f"\n  {SQUARE}   plane 0  \n\n \n", [0]),
    "empty": ("", []),
    "only header": ("imagesource:x\ngsd:1\n", []),
    "exponents and signs": ("+1e1 -4.0e0 5e1 10.0 50 40 10 .4e2 plane 0\n", [0]),
    "counter-clockwise": ("10 40 50 40 50 10 10 10 plane 0\n", [0]),
    "same place, other class": (f"{GOOD}{SQUARE} ship 0\n", [0, 0]),
    "a dart": ("0 0 40 20 0 40 10 20 plane 0\n", [0]),
    "across the edge": ("-5 -5 20 -5 20 20 -5 20 plane 0\n", [0]),
    "thin": ("0 0 1000 0 1000 0.1 0 0.1 plane 0\n", [0]),
}


@pytest.mark.parametrize("name", FINE)
def test_labels_that_are_fine(tmp_path: Path, name: str) -> None:
    text, difficult = FINE[name]
    objects = read_objects(label(tmp_path, text), Problems(strict=True))
    assert objects.corners.shape == (len(difficult), 4, 2)
    assert objects.corners.dtype == np.float64
    assert objects.difficult.dtype == np.int64
    assert objects.difficult.tolist() == difficult
    assert len(objects.names) == len(objects) == len(difficult)


def test_corners_keep_the_order_of_the_file(tmp_path: Path) -> None:
    objects = read_objects(label(tmp_path, "10 40 50 40 50 10 10 10 plane 0\n"), Problems(strict=True))
    assert objects.corners[0].tolist() == [[10, 40], [50, 40], [50, 10], [10, 10]]


INVALID = {
    # a line, what the message says
    "too few numbers": ("10 10 50 10 50 40 10 plane 0", "found '(plane|10)'|9 fields"),
    "far too few": ("10 10 plane", "found 3 fields; expected the ten"),
    "too many fields": (f"{SQUARE} storage tank 0", "11 fields"),
    "letters": ("10 10 fifty 10 50 40 10 40 plane 0", "found 'fifty'; expected a number"),
    "underscore": ("1_0 10 50 10 50 40 10 40 plane 0", "found '1_0'"),
    "comma": ("10 10 50,5 10 50 40 10 40 plane 0", "found '50,5'"),
    "NaN": ("10 10 nan 10 50 40 10 40 plane 0", "nan; expected a finite number"),
    "infinity": ("10 10 inf 10 50 40 10 40 plane 0", "inf; expected a finite number"),
    "absurd": ("10 10 1e9 10 50 40 10 40 plane 0", "coordinate 1e9"),
    "unknown class": (f"{SQUARE} plain 0", "unknown class 'plain'.*Did you mean plane"),
    "difficulty": (f"{SQUARE} plane x", "difficulty 'x'"),
    "large difficulty": (f"{SQUARE} plane 99999999999999999999", "difficulty '99999999999999999999'"),
    "negative difficulty": (f"{SQUARE} plane -1", "difficulty '-1'"),
    "crossed": ("10 10 50 40 50 10 10 40 plane 0", "crossed corners"),
    "crossed the other way": ("10 10 50 10 10 40 50 40 plane 0", "crossed corners"),
    "point": ("10 10 10 10 10 10 10 10 plane 0", "no area"),
    "line": ("10 10 20 20 30 30 40 40 plane 0", "no area"),
    "line there and back": ("10 10 50 10 50 10 10 10 plane 0", "no area"),
    "duplicate": (GOOD.strip(), "object of line 1 again"),
    "duplicate from another corner": ("50 10 50 40 10 40 10 10 plane 1", "object of line 1 again"),
    "not UTF-8": (b"10 10 50 10 50 40 10 40 \xe9glise 0", "not UTF-8"),
    "UTF-16": ("ÿ".encode("latin-1") + b"\xfe1\x000\x00", "not UTF-8"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_objects_are_skipped_with_their_line_or_refused(tmp_path: Path, name: str) -> None:
    line, message = INVALID[name]
    last = b"60 10 90 10 90 40 60 40 ship 0"
    path = label(tmp_path, b"\n".join([GOOD.strip().encode(), line if isinstance(line, bytes) else line.encode(), last]))
    problems = Problems()
    objects = read_objects(path, problems, ("plane", "ship"))
    assert objects.names == ["plane", "ship"]
    assert problems.count == 1
    assert problems.first[0].startswith(f"{path}:2: found ")
    with pytest.raises(UserError, match=message):
        read_objects(path, Problems(strict=True), ("plane", "ship"))


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_label_file_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.txt"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_objects(path, Problems())


def test_written_objects_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    offsets = rng.uniform(-50, 50, (20, 1, 2)).round(3)
    corners = offsets + np.array([[0, 0], [30.5, 2], [28, 20.25], [-3, 18]])
    objects = Objects(corners, ["a-b", "c"] * 10, rng.integers(0, 3, 20))
    write_objects(tmp_path / "a.txt", objects)
    again = read_objects(tmp_path / "a.txt", Problems(strict=True))
    assert np.abs(again.corners - corners).max() < 1e-4
    assert (again.names, again.difficult.tolist()) == (objects.names, objects.difficult.tolist())


def test_label_text(tmp_path: Path) -> None:
    corners = np.array([[[218, 108], [249.25, -0.0], [0.1 + 0.2, 1e5], [-3.0, -1e-9]]])
    write_objects(tmp_path / "a.txt", Objects(corners, ["swimming-pool"], np.array([2])))
    expected = "218.0 108.0 249.25 0.0 0.3 100000.0 -3.0 0.0 swimming-pool 2\n"
    assert (tmp_path / "a.txt").read_text() == expected


@pytest.mark.parametrize(
    ("shift", "kept"),
    [((0, 0), True), ((-15, 0), True), ((-21, 0), False), ((101, 0), False), ((90, 70), True), ((0, 81), False)],
    ids=str,
)
def test_objects_outside_the_image(shift: tuple[int, int], kept: bool) -> None:
    corners = np.array([[[0.0, 0], [20, 0], [20, 20], [0, 20]]]) + shift
    objects = Objects(corners, ["plane"], np.array([0]))
    problems = Problems()
    result = inside(objects, 100, 80, problems, "a.txt")
    assert len(result) == kept
    assert problems.count == (not kept)
    if kept:
        assert (result.corners == corners).all()
    else:
        assert "touches the 100 x 80 image" in problems.first[0]


def folders(root: Path, images: list[str], labels: list[str]) -> Path:
    for name, files in (("images", images), ("labelTxt", labels)):
        (root / name).mkdir(parents=True)
        for file in files:
            (root / name / file).touch()
    return root


def test_items_are_sorted_and_paired(tmp_path: Path) -> None:
    images = ["b.png", "a.TIF", "c.jpg", "d.bmp", "readme.md", "._a.png"]
    root = folders(tmp_path, images, ["a.txt", "b.txt", "c.txt", "d.txt"])
    items = list_items(root, Problems(strict=True))
    assert [(item.stem, item.image.name, item.label.name) for item in items] == [
        ("a", "a.TIF", "a.txt"), ("b", "b.png", "b.txt"), ("c", "c.jpg", "c.txt"), ("d", "d.bmp", "d.txt"),
    ]  # fmt: skip
    assert [item.label for item in list_items(root, Problems(strict=True), labelled=False)] == [None] * 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (["a.png", "b.png"], ["a.txt"], "b.png: found no label file.*empty file says that the image is background"),
        (["a.png"], ["a.txt", "b.txt"], "b.txt: found no image"),
        (["a.jpg", "a.png"], ["a.txt"], "a.png: found a second image named a beside a.jpg"),
    ],
)
def test_items_that_do_not_fit(tmp_path: Path, images: list[str], labels: list[str], message: str) -> None:
    root = folders(tmp_path, images, labels)
    problems = Problems()
    assert [item.stem for item in list_items(root, problems)] == ["a"]
    assert problems.count == 1
    with pytest.raises(UserError, match=message):
        list_items(root, Problems(strict=True))


@pytest.mark.parametrize(
    ("images", "labels", "renamed", "message"),
    [
        ([], ["a.txt"], None, "images: found no such files"),
        (["a.png"], [], None, "labelTxt: found no such files"),
        (["a.png"], ["b.txt"], None, "no image that has a label file"),
        (["a.png"], ["a.txt"], "labelTxt", "Rename labelTxt-v1.0 to labelTxt"),
        (["a.png"], ["a.txt"], "images", "images: found no such folder"),
    ],
)
def test_folders_that_are_missing_or_empty(
    tmp_path: Path, images: list[str], labels: list[str], renamed: str | None, message: str
) -> None:
    root = folders(tmp_path, images, labels)
    if renamed:
        (root / renamed).rename(root / f"{renamed}-v1.0")
    with pytest.raises(UserError, match=message):
        list_items(root, Problems())


def test_class_names(tmp_path: Path) -> None:
    root = folders(tmp_path / "data", ["a.png"], [])
    (root / "labelTxt" / "a.txt").write_text(f"{SQUARE} ship 0\nbroken line\n{SQUARE} boat\n10 10 1 bad\n")
    assert class_names_in([parse_labels(root / "labelTxt" / "a.txt")], [root]) == ("boat", "ship")
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffship\r\n\r\ncafé\r\n".encode())
    assert read_class_list(names, Problems(strict=True)) == ("ship", "café")
    assert len(read_class_list("dota1.0", Problems())) == 15
    assert CLASS_LISTS["dota1.5"][-1] == "container-crane"
    assert CLASS_LISTS["dota2.0"][:16] == CLASS_LISTS["dota1.5"]
    assert len(set(CLASS_LISTS["dota2.0"])) == 18


@pytest.mark.parametrize(
    ("text", "choice", "message"),
    [
        ("ship\nship\n", "names.txt", "names.txt:2: found 'ship' a second time"),
        ("storage tank\n", "names.txt", "names.txt:1: .*space inside"),
        ("\n", "names.txt", "no class names"),
        ("", "dota-1.5", "Did you mean dota1.5"),
        ("", "auto", r"--classes auto: found a choice for training.*; expected dota1.0, .* or a text file"),
    ],
)
def test_class_names_that_cannot_be(tmp_path: Path, text: str, choice: str, message: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_list(tmp_path / choice if "txt" in choice else choice, Problems(strict=True))


def test_real_labels_and_detections(shared: Path) -> None:
    folder = shared / "data" / "dota-sample"
    problems = Problems(strict=True)
    files = sorted((folder / "labelTxt").glob("*.txt"))
    objects = {path.stem: read_objects(path, problems, CLASS_LISTS["dota1.0"]) for path in files}
    images = {path.stem for path in (folder / "images").iterdir()}
    assert sum(len(objects[stem]) for stem in images) == 694
    merged = read_task1(folder / "merged_detections", problems)
    assert sum(map(len, merged.values())) == 857
    assert sum(map(len, read_task1(folder / "patch_detections", problems).values())) == 1632
