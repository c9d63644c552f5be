"""YOLO-OBB."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from label_files import LINE, assert_refused, write_image, write_yolo
from rotanext.errors import Problems, UserError
from rotanext.images.reading import write_png
from rotanext.labels import yolo
from rotanext.labels.convert import FORMATS, convert_labels
from rotanext.labels.dataset import LabelSet, Shapes
from tiny import draw_dataset

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


REFUSED = (  # file, text, part of the message
    ("data.yaml", "names: [a, a]", "two classes of one name"),
    ("data.yaml", "nc: 3", "no names of classes"),
    ("data.yaml", "a: &a [1]\nb: *a\nnames: [x]", "what cannot be read (aliases)"),
    ("data.yaml", "!!python/object/apply:os.system [ls]", "what cannot be read"),
    ("data.yaml", "names: {1: x}", "names that are not numbered 0, 1, 2"),
    ("data.yaml", "names: [x]", "no labelled image"),
)


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_refused(name: str, text: str, message: str, tmp_path: Path, cli: Callable) -> None:
    assert_refused("yolo-obb", name, text, message, tmp_path, cli)


def test_yolo_images_without_a_file_are_background(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "in", "train")
    write_image(root / "images/train/empty.png")
    done = convert_labels(root, tmp_path / "out", "yolo-obb", "dota")
    assert (done.images, done.objects, done.lost) == (2, 1, ())
    assert (tmp_path / "out/train/labelTxt/empty.txt").read_text().strip() == ""


def test_one_folder_of_images_for_all_subsets(tmp_path: Path, cli: Callable) -> None:
    root = write_yolo(tmp_path / "in", "train", "val")
    (root / "labels/val/a.txt").rename(root / "labels/val/b.txt")
    for name in ("a", "b"):
        write_image(tmp_path / f"all/{name}.png")
    found = FORMATS["yolo-obb"].read(root, tmp_path / "all", Problems(strict=True))
    assert (len(found.images), found.unlabelled) == (2, [])


def test_five_values_of_yolo_are_said(tmp_path: Path, cli: Callable) -> None:
    """They are read as upright boxes, which most objects of an oriented data set are not."""
    root = draw_dataset(tmp_path / "dota", 1)
    assert cli("labels", "convert", root, tmp_path / "yolo", "--from", "dota", "--to", "yolo-obb").code == 0
    label = next((tmp_path / "yolo/labels").rglob("*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.2 0.1\n")
    done = cli("labels", "convert", tmp_path / "yolo", tmp_path / "back", "--from", "yolo-obb", "--to", "dota")
    assert "note: 1 line of five values" in done.err


def write_line(root: Path, line: str) -> Path:
    write_yolo(root, "train")
    (root / "labels/train/a.txt").write_text(line)
    return root


BAD = (  # a line, and what is found
    ("0 0.1 0.1 0.5", "found 4 fields"),
    ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1", "found 8 fields"),
    ("1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5", "found the class '1'; expected a number from 0 to 0"),
    ("-1 0.5 0.5 0.1 0.1", "found the class '-1'"),
    ("ship 0.5 0.5 0.1 0.1", "found the class 'ship'"),
    ("0 x 0.5 0.1 0.1", "found 'x'; expected a coordinate divided by the image's side"),
    ("0 2000 0.5 0.1 0.1", "found '2000'; expected a coordinate divided by the image's side (finite, at most 1000)"),
    ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5 1.5", "found a score of 1.5"),
    ("0 0.1 0.1 0.2 0.2 0.3 0.3", "found an outline that encloses no area"),
)


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_told_with_its_number(line: str, message: str, tmp_path: Path) -> None:
    problems = Problems()
    found = yolo.read(write_line(tmp_path, f"{LINE}\n{line}\n"), None, problems)
    assert (found.count, problems.count) == (1, 1)
    assert f"a.txt:3: {message}" in problems.first[0]


def test_scores_outlines_and_a_mark_of_byte_order(tmp_path: Path) -> None:
    lines = f"\ufeff{LINE.strip()} 0.25\n0 0.1 0.25 0.3 0.3 0.5 0.25 0.5 0.75 0.1 0.75\n"
    found = yolo.read(write_line(tmp_path, lines), None, Problems(strict=True))
    np.testing.assert_array_equal(found.images[0].scores, [0.25, np.nan])
    assert sorted(np.round(found.images[0].objects.corners[1], 6).tolist()) == [[10, 20], [10, 60], [50, 20], [50, 60]]
    assert found.notes[0].startswith("outlines: 1 of more than four points")


def test_labels_need_their_images(tmp_path: Path) -> None:
    for name, data in (("unreadable", b"no image"), ("missing", None)):
        root = write_yolo(tmp_path / name, "train")
        (root / "images/train/a.png").unlink()
        if data is not None:
            (root / "images/train/a.png").write_bytes(data)
        with pytest.raises(UserError, match="no labelled image"):
            yolo.read(root, None, Problems())


def test_names_of_classes_in_a_file_of_their_own(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(UserError, match="no names of classes"):
        yolo.read(tmp_path, None, Problems())
    (tmp_path / "classes.txt").write_text("ship\n\nplane\n")
    assert yolo.read(tmp_path, None, Problems(strict=True)).class_names == ["ship", "plane"]


def test_the_yaml_file_itself_is_a_source(tmp_path: Path) -> None:
    (write_yolo(tmp_path, "train", "val") / "data.yaml").rename(tmp_path / "ships.yaml")
    for source in (tmp_path, tmp_path / "ships.yaml"):
        assert yolo.read(source, None, Problems(strict=True)).subsets == ["train", "val"]


WRITTEN = (  # subsets, what data.yaml says of places, and whether it warns of a missing validation set
    (("",), {"train": "images", "val": "images"}, True),
    (("train", "val"), {"train": "images/train", "val": "images/val"}, False),
    (("train", "valid", "test"), {"train": "images/train", "val": "images/valid", "test": "images/test"}, False),
    (("north", "south"), {"train": ["images/north", "images/south"], "val": ["images/north", "images/south"]}, True),
)


@pytest.mark.parametrize(("subsets", "places", "warns"), WRITTEN)
def test_writing(subsets: tuple[str, ...], places: dict, warns: bool, tmp_path: Path) -> None:
    images = []
    for subset in subsets:
        shapes = Shapes()
        shapes.add(np.array([[10, 20], [50, 20], [50, 60], [10, 60]]), "b: c", 1, score=0.5)
        images.append(shapes.image("x.png", (100, 80), subset=subset))
    yolo.write(tmp_path, LabelSet(images, ["a", "b: c"]))
    text = (tmp_path / "data.yaml").read_text()
    assert yaml.safe_load(text) == places | {"names": {0: "a", 1: "b: c"}}
    assert ("no subset for validation" in text) == warns
    for subset in subsets:
        assert (tmp_path / "labels" / subset / "x.txt").read_text() == "1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75 0.5\n"
