"""The table of readers under test: what they read, from which whole files their inputs are made, what a valid result is."""

import io
import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import cv2
import geopandas
import numpy as np
import rasterio
import rasterio.control
import rasterio.errors
import rasterio.transform
import shapely
import torch
from PIL import Image
from rich.console import Console

import fuzz_checkpoints as checkpoints
import fuzz_exported as exported
import fuzz_toolboxes as toolboxes
from fuzz import Reader
from fuzz_inputs import mutate_bytes, mutate_image, mutate_json, mutate_text, mutate_toml
from places import ROOT
from rotanext.boxes import corners_to_boxes
from rotanext.checkpoints.detectors import filled_network, read_detector_file
from rotanext.checkpoints.pretrained import load_backbone
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.config import Config, load_config
from rotanext.data.dota import CLASS_LISTS, list_items, read_class_list, read_objects, write_objects
from rotanext.data.task1 import read_task1
from rotanext.errors import Problems, UserError
from rotanext.images.raster import Raster, settings
from rotanext.images.reading import check_image, image_size, list_images, read_image
from rotanext.labels.convert import FORMATS, fit
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.labels.submission import check_submission
from rotanext.load import load_detector
from rotanext.objects import Objects
from rotanext.reports.training import plot_training
from rotanext.system.progress import Display
from rotanext.training.folder import read_run_config, state_files
from rotanext.training.loop import Trainer
from rotanext.training.runlog import keep_rows, read_rows
from rotanext.training.state import newest_state
from tiny import draw_dataset, tiny_config

RECIPES = ROOT / "src/rotanext/recipes"


def _check_problems(problems: Problems, path: Path) -> None:
    assert all(path.name in message for message in problems.first), problems.first


# --- labels

LABELS = (
    b"imagesource:GoogleEarth\ngsd:0.146\n"
    b"2753 2408 2861 2385 2888 2468 2805 2502 plane 0\n3445 3391 3484 3409 3478 3422 3437 3402 large-vehicle 1\n",
    b"10.5 10 50.25 12 48 40 9 38.125 ship 0\n100 100 140 100 140 130 100 130 small-vehicle\n\n0 0 1e3 0 1e3 1e3 0 1e3 plane 2\n",
    b"",
    b"\xef\xbb\xbf1 2 30 4 28 44 3 40 harbor 0\r\n",
)
TASK1 = (
    b"P0001 0.98 10 10 50 10 50 40 10 40\nP0001 0.5 12 11 50 10 50 40 10 40\nP 0002__1__0___0 1e-3 0 0 5 0 5 5 0 5\n",
    b"",
    b"P0003__1__512___0 0.25 1.5 2.5 30.25 2.5 30.25 9 1.5 9\n",
)


def read_labels(path: Path) -> Objects:
    problems = Problems()
    objects = read_objects(path, problems, CLASS_LISTS["dota1.0"])
    _check_problems(problems, path)
    assert objects.corners.shape == (len(objects), 4, 2)
    assert len(objects.names) == len(objects.difficult)
    assert objects.corners.dtype == np.float64
    assert np.isfinite(objects.corners).all()
    boxes = corners_to_boxes(torch.from_numpy(objects.corners).float())
    assert boxes.isfinite().all()
    assert (boxes[:, 2] >= boxes[:, 3]).all()
    assert (boxes[:, 4].abs() <= math.pi / 2 + 1e-6).all()
    write_objects(path, objects)
    again = read_objects(path, Problems(strict=False))
    assert len(again) <= len(objects)
    return objects


def read_detections(path: Path) -> object:
    problems = Problems()
    found = read_task1(path.parent, problems)
    _check_problems(problems, path)
    for line in found["plane"]:
        assert line.stem
        assert math.isfinite(line.score)
        assert len(line.corners) == 8
        assert all(map(math.isfinite, line.corners))
    return found


def read_folder(path: Path) -> object:
    """The input's lines are names of files in images/, labelTxt/ and the data set itself."""
    root = Path(mkdtemp(dir=path.parent, prefix="set"))
    for name in ("images", "labelTxt"):
        (root / name).mkdir()
    for number, line in enumerate(path.read_bytes().splitlines()[:40]):
        place = line.split(b" ", 1)
        target = os.fsencode(root) + b"/" + (b"images", b"labelTxt", b"")[number % 3] + b"/" + place[-1].replace(b"/", b"_")[:250]
        with suppress(ValueError, OSError):  # no name for a file
            entry = Path(os.fsdecode(target))
            entry.mkdir() if place[0] == b"dir" else entry.touch()
    problems = Problems()
    list_images(root / "images")
    with suppress(UserError):
        read_task1(root, problems)
    items = list_items(root, problems)
    assert items == sorted(items)
    assert all(item.image and item.label and item.image.stem == item.label.stem == item.stem for item in items)
    (problems.summary() or "").encode("utf-8", "surrogateescape")
    return items


FOLDERS = (
    b"image a.png\nlabel a.txt\nother x\nimage b b.jpg\nlabel b b.txt\ndir images\nimage a.tif\nlabel .a.txt",
    b"image \xe4.png\nlabel \xe4.txt\nother Task1_plane.txt\ndir c.png\ndir c.txt\nother labels\nimage ._a.png\nlabel A.TXT",
)  # fmt: skip


def read_class_names(path: Path) -> tuple[str, ...]:
    problems = Problems()
    names = read_class_list(path, problems)
    _check_problems(problems, path)
    assert names
    assert len(set(names)) == len(names)
    assert all(name and len(name.split()) == 1 for name in names)
    return names


# --- configurations and logs


def read_config(path: Path) -> Config:
    config = load_config(str(path))
    json.dumps(config.model_dump(mode="json"), allow_nan=False)  # what is saved with every run
    return config


def read_config_of_run(path: Path) -> Config:
    return read_run_config(path.parent)


def _recipe_texts() -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(RECIPES.glob("*.toml")))


@cache
def _recipe_jsons() -> tuple[bytes, ...]:
    return tuple(json.dumps(load_config(path.stem).model_dump(mode="json")).encode() for path in sorted(RECIPES.glob("*.toml")))


LOGS = (
    b'{"step": 1, "epoch": 0.5, "loss": 2.5, "loss_cls": 1.5, "loss_box": 1.0, "lr": 0.001, "grad_norm": 3.0, "positives": 7}\n'
    b'{"step": 2, "epoch": 1.0, "loss": null, "loss_cls": 1.25, "loss_box": 1.0, "lr": 0.001, "grad_norm": null, "positives": 9}\n'
    b'{"step": 2, "epoch": 1, "map50": 0.5, "map75": 0.25, "map50_95": 0.3}\n',
    b"",
)


def read_log(path: Path) -> object:
    """The rows, the rows up to a step, and their curves, as a resumed training wants them."""
    rows = read_rows(path)
    assert all(isinstance(row, dict) for row in rows)
    keep_rows(path, 1)
    if len(rows) == 4:  # seldom, as drawing takes a hundred times as long
        plot_training(rows, path.parent / "curves.png")
    return rows


# --- images


def _encoded(kind: str, image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _tiled_tiff(pixels: np.ndarray, side: int = 64) -> bytes:
    """A grey TIFF in tiles, written by hand, as neither library writes them."""
    height, width = pixels.shape[:2]
    padded = np.zeros((-(-height // side) * side, -(-width // side) * side), np.uint8)
    padded[:height, :width] = pixels
    tiles = [
        padded[y : y + side, x : x + side].tobytes() for y in range(0, len(padded), side) for x in range(0, padded.shape[1], side)
    ]
    count, size = len(tiles), side * side
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (322, 3, 1, side),
        (323, 3, 1, side),
    ]
    tables = 8 + 2 + 12 * 10 + 4
    entries += [(324, 4, count, tables), (325, 4, count, tables + 4 * count)]
    head = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    head += b"".join(
        t.to_bytes(2, "little") + k.to_bytes(2, "little") + n.to_bytes(4, "little") + v.to_bytes(4, "little")
        for t, k, n, v in entries
    )
    offsets = b"".join((tables + 8 * count + i * size).to_bytes(4, "little") for i in range(count))
    return head + bytes(4) + offsets + size.to_bytes(4, "little") * count + b"".join(tiles)


@cache
def image_seeds() -> tuple[bytes, ...]:
    """A small smooth image in every kind that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    pixels = cv2.resize(noise, (30, 20), interpolation=cv2.INTER_CUBIC)
    rgb, deep = Image.fromarray(pixels), pixels[..., ::-1].astype(np.uint16) * 257
    alpha = Image.fromarray(np.dstack([pixels, pixels[..., 0]]))
    files = [_encoded("PNG", kind) for kind in (rgb, alpha, rgb.convert("L"), rgb.quantize(8), rgb.convert("1"))]
    files += [
        _encoded("JPEG", rgb),
        _encoded("JPEG", rgb, progressive=True),
        _encoded("JPEG", rgb.convert("L")),
        _encoded("JPEG", rgb.convert("CMYK")),
    ]
    files += [
        _encoded("BMP", rgb),
        _encoded("BMP", rgb.quantize(8)),
        _encoded("BMP", rgb.convert("1")),
        _tiled_tiff(np.tile(pixels[..., 0], (5, 5))),
    ]
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files.append(_encoded("TIFF", rgb, compression=compression))
    files += [_encoded("TIFF", image) for image in (alpha, rgb.convert("L"), rgb.quantize(8))]
    files += [_encoded("TIFF", rgb, big_tiff=True), _encoded("TIFF", rgb.convert("1"), compression="group4")]
    return (
        *files,
        *(cv2.imencode(suffix, image)[1].tobytes() for suffix in (".png", ".tif") for image in (deep, deep[..., 0].copy())),
    )


def open_image(path: Path) -> object:
    errors = []
    sizes = []
    for function in (check_image, image_size):
        try:
            sizes.append(function(path))
        except UserError as error:
            errors.append(error)
    assert all(isinstance(n, int) and n >= 0 for size in sizes for n in size), sizes
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.size
    assert image.flags.c_contiguous
    return image.shape


@cache
def raster_seeds() -> tuple[bytes, ...]:
    """Small rasters of every kind of values, masks and places."""
    rng = np.random.default_rng(0)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0.1, 5e5, 0.1, -0.5, 5e6)}
    corners = [rasterio.control.GroundControlPoint(r, c, 12 + c * 1e-5, 50 - r * 1e-5) for r in (0, 40) for c in (0, 50)]
    kinds: list[dict[str, Any]] = [
        {"dtype": "uint8", "count": 3, "compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16, **place},
        {"dtype": "uint8", "count": 4, "alpha": "yes", "compress": "lzw", "predictor": 2, **place},
        {"dtype": "uint16", "count": 8, "nodata": 0, "interleave": "band", **place},
        {"dtype": "float32", "count": 1, "nodata": -9999.0, "compress": "zstd"},
        {"dtype": "int16", "count": 3, "gcps": corners, "crs": "EPSG:4326"},
        {"dtype": "uint8", "count": 1, "nbits": 1, "compress": "ccittfax4"},
        {"dtype": "uint8", "count": 3, "compress": "jpeg", "photometric": "ycbcr"},
    ]  # fmt: skip
    files = []
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    for kind in kinds:
        top = {"uint8": 2 if kind.get("nbits") else 256, "uint16": 4000, "int16": 500, "float32": 1}[kind["dtype"]]
        values = (rng.random((kind["count"], 40, 50)) * top).astype(kind["dtype"])
        with rasterio.MemoryFile() as memory:
            with memory.open(driver="GTiff", width=50, height=40, **kind) as file:
                file.write(values)
            files.append(memory.read())
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=50, height=40, count=1, dtype="uint8") as file:
            file.write(rng.integers(0, 4, (1, 40, 50)).astype(np.uint8))
            file.write_colormap(1, {k: (k * 60, 0, 255, 255) for k in range(4)})
        files.append(memory.read())
    return tuple(files)


def read_raster(path: Path) -> object:
    """Opened as a scene; some windows, its place on the ground, and the whole where it is small."""
    with settings(), Raster(path) as raster:
        assert min(raster.width, raster.height) > 0
        assert raster.how
        for x, y in ((0, 0), (raster.width // 2, raster.height // 2)):
            width, height = min(64, raster.width - x), min(64, raster.height - y)
            crop, valid = raster.read(x, y, width, height)
            assert (crop.dtype, crop.shape) == (np.uint8, (height, width, 3))
            assert valid is None or (valid.dtype, valid.shape) == (bool, (height, width))
        if raster.width * raster.height < 1 << 20:
            assert raster.overview(32).shape[2] == 3
        place = raster.georeference()
        if place is not None:
            assert np.isfinite(place.to_pixels(place.to_ground(np.array([[3.5, 2.0], [40.0, 30.0]])))).all()
        return raster.how


# --- footprints


@cache
def footprint_seeds(suffix: str) -> tuple[bytes, ...]:
    """Buildings, some of several parts or with a hole, on the image of `footprint_image`."""
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * 1e-4 + (15.0, 45.1)
    hole = shapely.Polygon(square, [(square - (15.0, 45.1)) / 3 + (15.00003, 45.10003)])
    shapes = [shapely.Polygon(square), hole, shapely.MultiPolygon([shapely.Polygon(square), shapely.Polygon(square + 3e-4)])]
    frame = geopandas.GeoDataFrame({"class": ["house", "ship yard", "a"], "n": [1, 2, 3]}, geometry=shapes, crs=4326)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"scene{suffix}"
        frame.to_file(path, engine="pyogrio")
        return (path.read_bytes() if suffix == ".gpkg" else json.dumps(json.loads(path.read_bytes())).encode(),)


def read_footprints_checked(path: Path) -> object:
    """As labels of an image with a place."""
    image = path.with_name("image.tif")
    if not image.exists():
        place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5)}
        with rasterio.open(image, "w", driver="GTiff", width=50, height=40, count=1, dtype="uint8", **place) as file:
            file.write(np.ones((1, 40, 50), np.uint8))
    problems = Problems()
    found = read_objects(path, problems, image=image)
    _check_problems(problems, path)
    assert np.isfinite(found.corners).all()
    assert found.corners.shape == (len(found.names), 4, 2)
    assert all(found.names)
    return len(found.names)


# --- checkpoints


def read_detector_checked(path: Path) -> object:
    found = read_detector_file(path)
    assert found.num_classes >= 0
    assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.weights.items())
    detector = load_detector(path, "cpu")
    assert all(value.isfinite().all() for value in detector.model.state_dict().values())
    assert len(detector.class_names) == detector.model.num_classes
    return detector.class_names


def read_nameless_checked(path: Path) -> object:
    """A detector's file that holds no class names."""
    found = read_detector_file(path)
    network, _ = filled_network(found.config, found.num_classes, found.weights, path, found.layout)
    return network.num_classes


def read_beside_checked(path: Path) -> object:
    return read_detector_checked(toolboxes.beside(path))


def read_backbone_checked(path: Path) -> object:
    report = load_backbone(checkpoints.tiny_backbone(), path)
    assert not report.missing
    assert report.matched
    return report.text()


def read_any_tensors(path: Path) -> object:
    content = read_tensors(path)
    assert isinstance(content, dict)
    return list(content)[:5]


def state_seeds() -> tuple[bytes, ...]:
    """The state of a training of two images after no step."""
    root = Path(mkdtemp(prefix="fuzz-run-"))
    overrides = (f"backbone.name={checkpoints.TINY}", "train.optimizer=adamw")
    config = tiny_config(draw_dataset(root / "data", 2), None, *overrides)
    trainer = Trainer(config, root, "cpu", Problems(strict=True), Display(Console(quiet=True)), pretrained=False)
    trainer.run()
    buffer = io.BytesIO()  # saved again: torch puts the file's own name, which holds a process's number, into the archive
    torch.save(torch.load(state_files(root)[0], weights_only=True), buffer)
    return (buffer.getvalue(),)


def read_state(path: Path) -> object:
    """The only state of a run's folder, as a resumed training finds it."""
    folder = path.parent / "states"
    folder.mkdir(exist_ok=True)
    path.rename(folder / "state-00000000.pt")
    state = newest_state(path.parent, lambda text: None)
    assert isinstance(state, dict)
    return sorted(state)


_GDAL_TEXT = ("UnicodeDecodeError: 'utf-8' codec can't decode",)  # rasterio prints it where GDAL's own message is no UTF-8
_CHECKPOINT: Callable[..., bytes] = checkpoints.mutate_checkpoint


# --- labels of other tools


def _label_files(form: str, suffix: str) -> tuple[bytes, ...]:
    """What each format's `write` makes of a few objects: its files of that ending."""
    shapes = Shapes()
    for place, (corners, name) in enumerate((([1, 2, 30, 2, 30, 20, 1, 20], "plane"), ([5, 30, 25, 33, 22, 39, 4, 36], "<b"))):
        shapes.add(np.array(corners, np.float64).reshape(4, 2), name, place, place, 0.5)
    fitted, _ = fit(LabelSet([shapes.image("image.png", (50, 40))], ["plane", "<b"]), FORMATS[form], Problems(strict=True))
    with TemporaryDirectory() as folder:
        FORMATS[form].write(Path(folder), fitted)
        return tuple(path.read_bytes() for path in sorted(Path(folder).rglob(f"*{suffix}")) if path.name != "labels.xml")


def read_foreign(form: str) -> Callable[[Path], object]:
    """The reader of a format, on one file beside an image of 50 x 40; what it reads is written as DOTA and as itself."""

    def read(path: Path) -> object:
        image = path.with_name("image.png")
        if not image.exists():
            cv2.imwrite(str(image), np.zeros((40, 50, 3), np.uint8))
        if form == "yolo-obb" and path.name != "data.yaml":
            (path.parent / "data.yaml").write_text("names: [plane, ship]\n")
        if form == "yolo-obb" and path.name == "data.yaml":
            (path.parent / "image.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
        problems = Problems()
        found = FORMATS[form].read(path.parent if form == "yolo-obb" else path, None, problems)
        _check_problems(problems, path)
        for one in found.images:
            assert one.objects.corners.shape == (len(one.objects), 4, 2)
            assert np.isfinite(one.objects.corners).all()
            assert "/" not in one.name + one.subset
            assert not one.name.startswith(".")
            assert set(one.objects.names) <= set(found.class_names)
        for other in {form, "dota"}:
            with suppress(UserError):
                fitted, _ = fit(found, FORMATS[other], Problems())
                target = path.parent / "written" / other
                target.mkdir(parents=True, exist_ok=True)
                FORMATS[other].write(target, fitted)
        return found.count

    return read


def read_submission(path: Path) -> object:
    return check_submission(path).to_json()


def _submission_seeds() -> tuple[bytes, ...]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("plane", "ship"):
            archive.writestr(f"Task1_{name}.txt", TASK1[0])
    return (buffer.getvalue(),)


def _foreign(form: str, file: str, mutate: Callable[..., bytes]) -> Reader:
    return Reader(
        f"{form} {Path(file).suffix[1:]}",
        lambda: _label_files(form, Path(file).suffix),
        mutate,
        read_foreign(form),
        file,
        named="found",
    )


FOREIGN = (
    *(_foreign(form, "image.xml", mutate_text) for form in ("voc", "rolabelimg", "dior-r", "hrsc")),
    _foreign("cvat", "annotations.xml", mutate_text),
    *(_foreign(form, "image.json", mutate_json) for form in ("coco", "coco-rbox", "labelme", "label-studio")),
    _foreign("yolo-obb", "image.txt", mutate_text),
    _foreign("yolo-obb", "data.yaml", mutate_text),
    Reader("submission", _submission_seeds, mutate_bytes, read_submission, "Task1.zip"),
)

READERS = (
    *FOREIGN,
    Reader("labels", lambda: LABELS, mutate_text, read_labels, "P0001.txt"),
    Reader("task1", lambda: TASK1, mutate_text, read_detections, "Task1_plane.txt"),
    Reader("folders", lambda: FOLDERS, mutate_text, read_folder, "names.txt", named="set"),
    Reader(
        "class list",
        lambda: (b"plane\nship\nsmall-vehicle\n", b"\xef\xbb\xbfa\r\nb\r\n"),
        mutate_text,
        read_class_names,
        "classes.txt",
    ),
    Reader("recipe toml", _recipe_texts, mutate_toml, read_config, "recipe.toml"),
    Reader("recipe json", _recipe_jsons, mutate_json, read_config, "recipe.json"),
    Reader("run config", _recipe_jsons, mutate_json, read_config_of_run, "config.json"),
    Reader("metrics log", lambda: LOGS, mutate_json, read_log, "metrics.jsonl"),
    Reader("images", image_seeds, mutate_image, open_image, "scene.png", share=2),
    Reader("rasters", raster_seeds, mutate_image, read_raster, "scene.tif", share=2, known=_GDAL_TEXT),
    Reader("geojson", lambda: footprint_seeds(".geojson"), mutate_json, read_footprints_checked, "scene.geojson"),
    Reader("geopackage", lambda: footprint_seeds(".gpkg"), mutate_bytes, read_footprints_checked, "scene.gpkg", share=0.5),
    Reader("tensors", checkpoints.backbone_seeds, _CHECKPOINT, read_any_tensors, "any.pth", share=0.5),
    Reader("detectors", checkpoints.detector_seeds, _CHECKPOINT, read_detector_checked, "model.pth", share=0.6),
    Reader("rtmdets", toolboxes.rtmdet_seeds, toolboxes.mutate_rtmdet, read_detector_checked, "model.pth", share=0.4),
    Reader("cfg texts", lambda: toolboxes.CFGS, mutate_text, toolboxes.read_cfg, "cfg.py"),
    Reader(
        "oriented-det", toolboxes.oriented_det_seeds, toolboxes.mutate_oriented_det, read_nameless_checked, "model.pth", share=0.2
    ),
    Reader("oriented-det json", lambda: toolboxes.BESIDE, mutate_json, read_beside_checked, "w.json", named="w.pth", share=0.2),
    Reader("onnx", exported.onnx_seeds, exported.mutate_onnx, exported.read_onnx_checked, "model.onnx"),
    Reader("openvino", exported.openvino_seeds, exported.mutate_openvino, exported.read_openvino_checked, "model.xml", share=0.3),
    Reader("pt2", exported.program_seeds, exported.mutate_program, exported.read_program_checked, "model.pt2", share=0.5),
    Reader("backbones", checkpoints.backbone_seeds, _CHECKPOINT, read_backbone_checked, "backbone.pth", share=0.4),
    Reader(
        "training state", state_seeds, checkpoints.mutate_zip_or_bytes, read_state, "state.pt", named="state-00000000.pt", share=0.2
    ),
)
