"""Label files and the images that belong to them, small enough for a test."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.labels.convert import FORMATS

SOUND = "10 10 40 10 40 30 10 30 plane 0"
FAULTS = (  # a line beside SOUND, and what is found
    ("50 10 80 10 80 30 50 30 plane 0", None),
    ("50 10 80 30 80 10 50 30 plane 0", "crossed corners"),
    ("50 10 60 10 70 10 80 10 plane 0", "no area"),
    ("150 10 180 10 180 30 150 30 plane 0", "outside the image"),
    ("80 10 120 10 120 30 80 30 plane 0", "beyond the edge"),
    ("50 30 80 30 80 10 50 10 plane 0", "counter-clockwise"),
    ("50 10 80 10 65 30 64 30 plane 0", "no rectangle"),
    ("50 10 80 10 80 12 50 12 plane 0", "tiny"),
    ("40 10 40 30 10 30 10 10 plane 0", "duplicate"),
    ("10 10 40 10 40 30.5 10 30.5 plane 0", "nearly a duplicate"),
    ("10 10 40 10 40 30 10 30 ship 0", "two classes in one place"),
    ("50 10 80 10 80 30 50 30 plain 0", "unknown class"),
    ("50 10 80 10 80 30 plane 0", "invalid label"),
    ("50 10 80 nan 80 10 50 30 plane 0", "invalid label"),
)


def one_image(root: Path, *lines: str) -> Path:
    for name in ("images", "labelTxt"):
        (root / name).mkdir(parents=True)
    write_png(root / "images/a.png", np.full((80, 100, 3), 90, np.uint8))
    (root / "labelTxt/a.txt").write_text("\n".join(lines) + "\n")
    return root


def write_image(path: Path, width: int = 100, height: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((height, width, 3), 90, np.uint8))
    return path


def write_coco(path: Path, *names: str, **annotation: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(names)]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 20, 20]} | annotation
    path.write_text(json.dumps({"images": images, "annotations": [box], "categories": [{"id": 1, "name": "ship"}]}))
    return path


LINE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"


def write_yolo(root: Path, *subsets: str) -> Path:
    for subset in subsets:
        write_image(root / "images" / subset / "a.png")
        (root / "labels" / subset).mkdir(parents=True)
        (root / "labels" / subset / "a.txt").write_text(LINE)
    places = "".join(f"{subset}: images/{subset}\n" for subset in subsets)
    (root / "data.yaml").write_text(f"{places}names: [ship]\n")
    return root


def assert_means(form: str, name: str, text: str, corners: list, root: Path) -> None:
    """A file that speaks of x.png (100 x 80), read by its folder and by its own path, is one dog with these corners."""
    (root / name).write_text(text)
    write_png(root / "x.png", np.zeros((80, 100, 3), np.uint8))
    problems = Problems(strict=True)
    for source in (root, root / name):
        found = FORMATS[form].read(source, None, problems)
        assert [(p.name, p.width, p.height) for p in found.images] == [("x.png", 100, 80)]
        assert found.images[0].objects.names == ["dog"]
        np.testing.assert_allclose(found.images[0].objects.corners[0], corners, atol=1e-5)


def assert_refused(form: str, name: str, text: str, message: str, root: Path, cli: Callable) -> None:
    """Nothing is converted from a folder with this file alone, and the message says why."""
    (root / "in").mkdir()
    (root / "in" / name).write_text(text)
    done = cli("labels", "convert", root / "in", root / "out", "--from", form, "--to", "dota")
    assert done.code == 2
    assert message in done.err
    assert not (root / "out").exists()
