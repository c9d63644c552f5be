"""DOTA's text labels as one format of many."""

from collections.abc import Callable
from pathlib import Path

import cv2
from PIL import Image

from label_files import assert_refused
from rotanext.errors import Problems
from rotanext.labels.convert import FORMATS


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
