"""`rotanext eval` and what it is made of, with and without a model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rotanext.data.dota import read_objects
from rotanext.data.index import Entry, read_entries
from rotanext.errors import Problems, UserError
from rotanext.evaluation.evaluate import Stopwatch, detect_all
from rotanext.images.reading import check_image
from rotanext.images.scenes import read_pixels
from rotanext.inference.predict import PredictOptions, predict
from rotanext.load import load_detector
from rotanext.objects import Objects
from rotanext.system.progress import Display
from tiny import draw_dataset

FILES = {"report.html", "metrics.json", "precision_recall.png", "confusion.png"}
CLASSES = ("plane", "ship")


def perfect(data: Path, out: Path, tile: str = "", shift: float = 0) -> Path:
    """Task1 files that hold exactly the labelled objects."""
    out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {name: [] for name in CLASSES}
    for label in sorted((data / "labelTxt").iterdir()):
        objects = read_objects(label, Problems(strict=True))
        for corners, name in zip(objects.corners - shift, objects.names, strict=True):
            lines[name].append(f"{label.stem}{tile} 0.9 " + " ".join(map(str, corners.ravel())) + "\n")
    for name, content in lines.items():
        with (out / f"Task1_{name}.txt").open("a") as file:
            file.writelines(content)
    return out


def map50(out: Path) -> float:
    return json.loads((out / "metrics.json").read_text())["mean"]["area"]["map50"]


def test_a_detector(cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    done = cli("eval", tiny_dataset / "val", "-w", tiny_weights, "--out", tmp_path / "out", "--device", "cpu", "--batch", 2)
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"Task1"}
    assert "plane" in done.out
    assert "mean" in done.out


def test_a_raster_with_holes_is_detected_on_as_predict_does(tiny_weights: Path, tmp_path: Path) -> None:
    """Boxes on pixels without data count in neither; what cannot be read halfway through is a problem in both."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo: pip install 'rotanext[geo]'")
    values = np.random.default_rng(0).integers(1, 256, (3, 150, 200)).astype(np.uint8)
    values[:, 20:90, 30:110] = 0
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    profile = {"driver": "GTiff", "count": 3, "height": 150, "width": 200, "dtype": "uint8", "nodata": 0}
    for path in paths:
        with rasterio.open(path, "w", **profile, tiled=True, blockxsize=16, blockysize=16, compress="deflate") as file:
            file.write(values)
    damaged = bytearray(paths[1].read_bytes())
    damaged[len(damaged) // 3 : -3000] = bytes(len(damaged) - 3000 - len(damaged) // 3)
    paths[1].write_bytes(damaged)
    detector = load_detector(tiny_weights, "cpu").reconfigured(image_size=0, tile=64, overlap=16, score_threshold=0.0095)
    problems, watch = Problems(), Stopwatch()
    entries = [Entry(path.stem, path, Objects(np.zeros((0, 4, 2)), [], np.zeros(0, np.int64)), (200, 150)) for path in paths]
    read, found = detect_all(detector, entries, problems, watch=watch)
    predicted = predict(detector, paths, tmp_path / "out", PredictOptions(images=False), Problems(), Display())
    assert problems.count == 1, problems.first
    assert [entry.stem for entry in read] == list(predicted) == ["a"]
    assert "b.tif: found a part that cannot be read" in problems.first[0]
    assert found[0].to_records() == predicted["a"].to_records()
    assert 0 < len(found[0]) < len(detector(read_pixels(paths[0])))
    assert watch.tiles == [12]


def test_files_of_detections(cli: Callable, tiny_dataset: Path, tmp_path: Path) -> None:
    found = perfect(tiny_dataset / "val", tmp_path / "found")
    for data in (tiny_dataset / "val", tiny_dataset / "val/labelTxt"):
        done = cli("eval", data, "--detections", found, "--out", tmp_path / "out")
        assert done.code == 0, done.err
        assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
        assert "100.00" in done.out


def test_files_on_tiles_are_merged(cli: Callable, tiny_dataset: Path, tmp_path: Path) -> None:
    tiles = perfect(tiny_dataset / "val", tmp_path / "tiles", "__64__0___0")
    perfect(tiny_dataset / "val", tiles, "__64__-8___-8", -8)
    stale = tmp_path / "out/merged/Task1_boat.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("p0 0.9 1 1 9 1 9 9 1 9\n")
    done = cli("eval", tiny_dataset / "val", "--detections", tiles, "--merge", 0.1, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "100.00" in done.out
    assert "boat" not in done.out
    lines = [path.read_text().splitlines() for path in (tmp_path / "out/merged").iterdir()]
    assert sum(map(len, lines)) == 4
    unmerged = cli("eval", tiny_dataset / "val", "--detections", tiles, "--out", tmp_path / "out")
    assert unmerged.code == 2
    assert "merge the tiles first" in unmerged.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --weights"),
        (("-w", "{weights}", "--detections", "{data}"), "give either --weights"),
        (("-w", "{weights}", "--merge", "0.1"), "--merge belongs to --detections"),
        (("--detections", "{data}", "--merge", "1.5"), "--merge"),
        (("--detections", "{data}/none"), "none: found no such folder"),
        (("--detections", "{data}"), "no Task1_<class>.txt file"),
        (("-w", "{weights}", "--device", "cuda:99"), "device 'cuda:99' cannot be used"),
        (("-w", "{weights}", "--batch", "0"), "--batch"),
        (("-w", "{data}/none.pth"), "none.pth: found No such file"),
    ],
)
def test_options_that_make_no_sense(
    options: tuple[str, ...], message: str, cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    values = [option.format(weights=tiny_weights, data=tiny_dataset / "val") for option in options]
    done = cli("eval", tiny_dataset / "val", "--out", tmp_path / "out", *values)
    assert done.code == 2
    assert message in done.err


def test_a_missing_folder(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    done = cli("eval", tmp_path / "none", "-w", tiny_weights, "--out", tmp_path / "out", "--device", "cpu")
    assert done.code == 2
    assert "none: found no such folder" in done.err


def broken(root: Path) -> Path:
    """A data set with a fault of every kind, and two good images."""
    draw_dataset(root, 6)
    (root / "images/p0.png").write_bytes((root / "images/p0.png").read_bytes()[:1000])
    (root / "images/p1.png").write_bytes(b"")
    content = bytearray((root / "images/p2.png").read_bytes())
    content[60:200] = bytes(140)  # only decoding finds this one
    (root / "images/p2.png").write_bytes(content)
    (root / "labelTxt/p3.txt").unlink()
    good = "10 10 20 10 20 20 10 20 plane 0\n"
    far = "500 500 520 500 520 520 500 520 plane 0\n"
    (root / "labelTxt/p4.txt").write_text(f"{good}{good}{far}1 2 3\n" + good.replace("plane", "boat").replace("10", "11"))
    return root


def test_faults_are_skipped_counted_and_named(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    root = broken(tmp_path / "data")
    done = cli("eval", root, "-w", tiny_weights, "--out", tmp_path / "out", "--device", "cpu")
    assert done.code == 1, done.err
    assert "Skipped 8 invalid items" in done.err
    assert "2 images" in done.out
    strict = cli("eval", root, "-w", tiny_weights, "--out", tmp_path / "out", "--device", "cpu", "--strict")
    assert strict.code == 2
    assert strict.err.count("error:") == 1


def test_entries(tmp_path: Path) -> None:
    problems = Problems(keep=20)
    entries = read_entries([str(broken(tmp_path / "data"))], CLASSES, problems)
    assert [entry.stem for entry in entries] == ["p2", "p4", "p5"]
    assert [len(entry.objects) for entry in entries] == [2, 1, 2]
    label = tmp_path / "data/labelTxt/p4.txt"
    said = "\n".join(problems.first)
    assert f"{label}:2: found the object of line 1 again" in said
    assert f"{label}: found a plane at x 500..520, y 500..520; expected one that touches the 64 x 64 image" in said
    assert f"{label}:4: found 3 fields" in said
    assert f"{label}:5: found the unknown class 'boat'" in said
    assert problems.count == 7
    with pytest.raises(UserError, match="p3"):
        read_entries([str(tmp_path / "data")], CLASSES, Problems(strict=True))


def test_no_entry_left(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 1)
    (root / "images/p0.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no readable image with a label file.*p0\.png: found a file that does not decode"):
        read_entries([str(root)], CLASSES, Problems())


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_a_image_is_checked_without_decoding_it(suffix: str, tmp_path: Path) -> None:
    import cv2

    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    assert check_image(path) == (50, 40)
    path.write_bytes(path.read_bytes() + bytes(100_000))  # something behind the end is no damage
    assert check_image(path) == (50, 40)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    for share in (0.9, 0.5, 0.01):
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(UserError, match=f"a.{suffix}: found"):
            check_image(path)
