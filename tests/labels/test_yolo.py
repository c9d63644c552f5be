"""YOLO-OBB."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_refused, write_image, write_yolo
from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.labels.convert import FORMATS, convert_labels
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
