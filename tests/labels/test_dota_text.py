"""DOTA's text labels as one format of many."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from label_files import SOUND, assert_refused, one_image, write_image, write_yolo
from rotanext.data.index import READING
from rotanext.errors import Problems, UserError
from rotanext.labels import dota_text
from rotanext.labels.convert import FORMATS
from rotanext.labels.dataset import LabelSet, Shapes


def test_refused(tmp_path: Path, cli: Callable) -> None:
    assert_refused("dota", "x.txt", "", "no labelled image", tmp_path, cli)


def test_our_own_format_is_of_stored_pixels(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[274] = 6
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / "images/a.jpg", exif=tags)
    (tmp_path / "labelTxt/a.txt").write_text("10 10 50 10 50 30 10 30 ship 0\n")
    found = FORMATS["dota"].read(tmp_path, None, Problems(strict=True)).images[0]
    assert (found.width, found.height) == (100, 80) == cv2.imread(str(tmp_path / "images/a.jpg"), 128 | 1).shape[1::-1]


@pytest.mark.parametrize("subset", ["", "val"])
def test_subsets_are_folders(subset: str, tmp_path: Path) -> None:
    root = one_image(tmp_path / subset, SOUND)
    write_image(root / "images/b.png")
    found = dota_text.read(tmp_path, None, Problems(strict=True))
    assert [(p.name, p.subset, p.file, p.label) for p in found.images] == [
        ("a.png", subset, root / "images/a.png", root / "labelTxt/a.txt")
    ]
    assert (found.unlabelled, found.class_names) == ([root / "images/b.png"], ["plane"])


def test_crossed_outlines_and_those_without_area_are_kept(tmp_path: Path) -> None:
    lines = ("50 10 80 30 80 10 50 30 plane 1", "50 10 60 10 70 10 80 10 plane 0")
    found = dota_text.read(one_image(tmp_path, *lines), None, Problems(strict=True)).images[0]
    assert found.objects.corners.reshape(-1, 8).tolist() == [[float(x) for x in line.split()[:8]] for line in lines]
    assert (found.objects.difficult.tolist(), found.places) == ([1, 0], [1, 2])


def test_faults_are_told_with_their_line_or_raised(tmp_path: Path) -> None:
    root = one_image(tmp_path, SOUND, "1 2 3 plane", SOUND)
    problems = Problems()
    assert dota_text.read(root, None, problems).images[0].places == [1, 3]
    assert problems.count == 1
    assert problems.first[0].startswith(f"{root / 'labelTxt/a.txt'}:2: ")
    with pytest.raises(UserError, match=r"a\.txt:2"):
        dota_text.read(root, None, Problems(strict=True))


def test_files_are_shown_as_they_are_read(tmp_path: Path) -> None:
    root = one_image(tmp_path, SOUND)
    (root / "labelTxt/b.txt").write_text(SOUND)
    shown = []

    def track(items: Iterable, what: str, total: int) -> Iterator:
        for item in items:
            shown.append((what, total))
            yield item

    assert dota_text.read(root, None, Problems(strict=True), track).count == 2
    assert shown == [(READING, 2)] * 2


def test_a_folder_of_yolo_is_told_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="yolo-obb"):
        dota_text.read(write_yolo(tmp_path, "train"), None, Problems())


def test_writing_keeps_four_digits(tmp_path: Path) -> None:
    shapes = Shapes()
    shapes.add(np.array([[1, 2], [5.00006, 2], [5, 4], [1, 4]]), "plane", 1, 2)
    dota_text.write(tmp_path, LabelSet([shapes.image("x.png", (0, 0), subset="val")], ["plane"]))
    fields = (tmp_path / "val/labelTxt/x.txt").read_text().split()
    assert [float(field) for field in fields[:8]] == [1, 2, 5.0001, 2, 5, 4, 1, 4]
    assert fields[8:] == ["plane", "2"]
