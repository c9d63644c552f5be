"""The one door to images and rasters: whoever reads a file gets the same values."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from rotanext.archive.addresses import open_address
from rotanext.config import load_config
from rotanext.data.dataset import TrainingSet
from rotanext.data.index import read_entries
from rotanext.data.split import split_dataset
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError
from rotanext.evaluation.evaluate import detect_all
from rotanext.images import reading, scenes
from rotanext.images.raster import Raster, RasterOptions
from rotanext.images.reading import read_image
from rotanext.images.scenes import ImageScene, Scene, check_pixels, is_raster, open_scene, read_pixels
from rotanext.inference.predict import PredictOptions, predict
from rotanext.system.progress import Display

HEIGHT, WIDTH = 40, 48
RNG = np.random.default_rng(0)
LINE = "5 5 25 5 25 15 5 15 ship 0\n"
PLAIN = (
    "data.image_size=0", "augment.scale=[1.0, 1.0]",
    *(f"augment.{name}=0.0" for name in (
        "flip_horizontal", "flip_vertical", "flip_diagonal", "quarter_turns", "rotate", "translate", "brightness", "contrast",
    )),
)  # fmt: skip


def noise(bands: int, dtype: str = "uint8", high: int = 256) -> np.ndarray:
    return RNG.integers(0, high, (bands, HEIGHT, WIDTH)).astype(dtype)


def write(path: Path, values: np.ndarray, palette: dict[int, tuple[int, int, int]] | None = None, **profile: Any) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo: pip install 'rotanext[geo]'")
    settings = {"driver": "GTiff", "count": len(values), "width": WIDTH, "height": HEIGHT, "dtype": values.dtype} | profile
    with rasterio.open(path, "w", **settings) as file:
        if palette:
            file.write_colormap(1, palette)
        file.write(values)


def with_nan() -> np.ndarray:
    values = RNG.normal(10, 3, (1, HEIGHT, WIDTH)).astype(np.float32)
    values[0, :7, :9] = np.nan
    return values


RASTERS: dict[str, Callable[[Path], None]] = {
    "uint8 RGB": lambda path: write(path, noise(3)),
    "16-bit grey": lambda path: write(path, noise(1, "uint16", 65536)),
    "16-bit RGB, 12 bits used": lambda path: write(path, noise(3, "uint16", 4096), nbits=12),
    "16-bit, four bands": lambda path: write(path, noise(4, "uint16", 65536)),
    "palette": lambda path: write(path, noise(1, high=3), {0: (1, 2, 3), 1: (40, 50, 60), 2: (200, 0, 9)}),
    "float with NaN": lambda path: write(path, with_nan()),
    "int16": lambda path: write(path, noise(1, "int16", 3000) - np.int16(500)),
    "five bands": lambda path: write(path, noise(5)),
    "4 bits": lambda path: write(path, noise(1, high=16), nbits=4),
    "JPEG within": lambda path: write(path, noise(3), compress="jpeg", photometric="YCBCR"),
    "zstandard": lambda path: write(path, noise(3), compress="zstd"),
    "0 is white": lambda path: write(path, noise(1), photometric="MINISWHITE"),
}


class Looker:
    """In a detector's place: keeps what it is given to look at."""

    class_names = ("ship",)

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.config = load_config("small", ["predict.image_size=64"])

    def __call__(self, image: np.ndarray, **_: object) -> Detections:
        self.seen.append(image)
        return Detections(torch.zeros(0, 5), torch.zeros(0), torch.zeros(0, dtype=torch.int64), self.class_names)

    def on_scene(self, scene: Scene, **_: object) -> Detections:
        return self(scene.read(0, 0, scene.width, scene.height)[0])


def folder_of(root: Path, make: Callable[[Path], None], name: str = "a.tif") -> Path:
    """A DOTA folder of one image."""
    for part in ("images", "labelTxt"):
        (root / part).mkdir(parents=True)
    make(root / "images" / name)
    (root / "labelTxt/a.txt").write_text(LINE)
    return root


@pytest.mark.parametrize("kind", RASTERS)
def test_training_reads_what_prediction_reads(tmp_path: Path, kind: str) -> None:
    root = folder_of(tmp_path / "data", RASTERS[kind])
    path = root / "images/a.tif"
    strict = Problems(strict=True)
    entries = read_entries([str(root)], ("ship",), strict)
    trained = TrainingSet(entries, ("ship",), load_config("small", PLAIN))[0, 0]
    assert not isinstance(trained, UserError), trained
    looker = Looker()
    predict(looker, path, tmp_path / "out", PredictOptions(images=False), strict, Display())  # type: ignore[arg-type]
    detect_all(looker, entries, strict)  # type: ignore[arg-type]
    predicted, evaluated = looker.seen
    np.testing.assert_array_equal(trained.image.numpy(), predicted)
    np.testing.assert_array_equal(evaluated, predicted)
    assert predicted.std() > 1, "an image, not one colour"
    split_dataset(root, tmp_path / "tiles", size=64, overlap=0, progress=False, problems=strict)
    (tile,) = (tmp_path / "tiles/images").iterdir()
    np.testing.assert_array_equal(read_image(tile)[:HEIGHT, :WIDTH], predicted)
    scene = open_address(str(path), RasterOptions())
    np.testing.assert_array_equal(scene.read(0, 0, WIDTH, HEIGHT)[0], predicted)


@pytest.mark.parametrize("kind", RASTERS)
def test_an_upload_is_read_alike(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve: pip install 'rotanext[serve]'")
    from rotanext.serve.limits import Limits
    from rotanext.serve.uploads import Upload

    RASTERS[kind](tmp_path / "a.tif")
    with Upload((tmp_path / "a.tif").read_bytes(), Limits(1 << 20, 1 << 20, 10, 1)) as upload:
        np.testing.assert_array_equal(upload.read(0, 0, WIDTH, HEIGHT)[0], read_pixels(tmp_path / "a.tif"))


@pytest.mark.parametrize("kind", RASTERS)
def test_a_header_is_enough_to_check_a_raster(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    RASTERS[kind](path)
    data = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "read_pixels", lambda path: pytest.fail("decoded"))
        assert check_pixels(path) == (WIDTH, HEIGHT)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.tif: found"):
        check_pixels(path)


SUFFIXES = {"png": {}, "jpg": {"quality": 90}, "bmp": {}, "tif": {}}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_images_are_what_they_were(tmp_path: Path, suffix: str, mode: str) -> None:
    """Bit for bit what the image reader makes of them, also where TIFFs are GDAL's."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(3).transpose(1, 2, 0)).convert(mode).save(path, **SUFFIXES[suffix])
    np.testing.assert_array_equal(read_pixels(path), read_image(path))
    scene = open_scene(path)
    np.testing.assert_array_equal(scene.read(0, 0, WIDTH, HEIGHT)[0], read_image(path))
    scene.close()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_without_the_extra_the_image_reader_takes_all(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), noise(3).transpose(1, 2, 0))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr("rotanext.system.gdal._loaded", [])
    monkeypatch.setattr(scenes, "DECODED_AT_ONCE", 100)
    assert not is_raster(path)
    np.testing.assert_array_equal(read_pixels(path), read_image(path))
    assert isinstance(open_scene(path), ImageScene)
    assert check_pixels(path) == (WIDTH, HEIGHT)
    for function in (read_pixels, open_scene):
        (tmp_path / "a.jp2").write_bytes(b"x")
        with pytest.raises(UserError, match=r"pip install 'rotanext\[geo\]'"):
            function(tmp_path / "a.jp2")


def test_a_huge_image_is_read_alike_whole_and_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rasterio", reason="needs the extra geo: pip install 'rotanext[geo]'")
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(3).transpose(1, 2, 0)).save(path, quality=90)  # GDAL and OpenCV differ in such an image's colours
    monkeypatch.setattr(scenes, "DECODED_AT_ONCE", 100)
    with open_scene(path) as raster:  # type: ignore[attr-defined]
        assert isinstance(raster, Raster)
        np.testing.assert_array_equal(raster.read(0, 0, WIDTH, HEIGHT)[0], read_pixels(path))


def test_options_reach_the_raster(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, noise(4, "uint16", 1000))
    options = RasterOptions((4, 1, 2), "0:1000")
    scene = open_scene(path, options)
    np.testing.assert_array_equal(read_pixels(path, options), scene.read(0, 0, WIDTH, HEIGHT)[0])
    assert (read_pixels(path, options) != read_pixels(path)).any()
    scene.close()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: path.write_text("no image"), "that? does not"),
    ],
    ids=["missing", "folder", "empty", "text"],
)
def test_what_is_no_image(tmp_path: Path, suffix: str, make: Callable[[Path], None], found: str) -> None:
    make(tmp_path / f"a.{suffix}")
    for function in (read_pixels, check_pixels):
        with pytest.raises(UserError, match=rf"a\.{suffix}: found .*{found.replace('that? ', '')}"):
            function(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("read", [open_scene, read_pixels])
@pytest.mark.parametrize("most", [100, 10**6], ids=["huge", "ordinary"])
def test_a_image_is_opened_once(tmp_path: Path, most: int, read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a huge one, which is GDAL's, only for its header."""
    pytest.importorskip("rasterio", reason="needs the extra geo: pip install 'rotanext[geo]'")
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), noise(3).transpose(1, 2, 0))
    expected = read_image(path)
    monkeypatch.setattr(scenes, "DECODED_AT_ONCE", most)
    opened, plain = [], Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: (opened.append(self), plain(self, *mode))[1])
    if most == 100:
        monkeypatch.setattr(reading, "decode_image", lambda *_: pytest.fail("decoded at once"))
    found = read(path)
    np.testing.assert_array_equal(found if read is read_pixels else found.read(0, 0, WIDTH, HEIGHT)[0], expected)
    assert opened == [path]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_check_opens_a_file_once(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), noise(3).transpose(1, 2, 0))
    opened, plain = [], Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: (opened.append(self), plain(self, *mode))[1])
    monkeypatch.setattr(reading, "read_bytes", lambda path: pytest.fail("read whole"))
    assert check_pixels(path) == (WIDTH, HEIGHT)
    assert opened == [path]
