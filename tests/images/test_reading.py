import io
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rotanext.errors import UserError
from rotanext.images import reading
from rotanext.images.reading import check_image, decode_image, image_size, list_images, read_image, write_png
from rotanext.models.network import MEAN


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A smooth 40 x 60 image, so that JPEG stays close to it."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(noise, (60, 40), interpolation=cv2.INTER_CUBIC)


def encode(kind: str, image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(rgb: np.ndarray) -> np.ndarray:
    return np.repeat(rgb[..., :1], 3, 2)


def same(rgb: np.ndarray) -> np.ndarray:
    return rgb


JPEG = {"quality": 95, "subsampling": 0}
KINDS = {
    # file name: how it is written, what is expected of it, greatest difference
    "rgb.png": (lambda a: encode("PNG", Image.fromarray(a)), same, 0),
    "upper.PNG": (lambda a: encode("PNG", Image.fromarray(a)), same, 0),
    "rgb.jpg": (lambda a: encode("JPEG", Image.fromarray(a), **JPEG), same, 12),
    "progressive.JPEG": (
        lambda a: encode("JPEG", Image.fromarray(a), progressive=True, **JPEG),
        same,
        12,
    ),
    "rgb.bmp": (lambda a: encode("BMP", Image.fromarray(a)), same, 0),
    "rgb.tif": (lambda a: encode("TIFF", Image.fromarray(a)), same, 0),
    "lzw.tiff": (lambda a: encode("TIFF", Image.fromarray(a), compression="tiff_lzw"), same, 0),
    "grey.png": (lambda a: encode("PNG", Image.fromarray(a[..., 0])), grey, 0),
    "grey.tif": (lambda a: encode("TIFF", Image.fromarray(a[..., 0])), grey, 0),
    "grey-alpha.png": (lambda a: encode("PNG", Image.fromarray(a[..., :2].copy(), "LA")), grey, 0),
    "rgba.png": (lambda a: encode("PNG", Image.fromarray(np.dstack([a, a[..., 0]]))), same, 0),
    "rgba.tif": (lambda a: encode("TIFF", Image.fromarray(np.dstack([a, 255 - a[..., 0]]))), same, 0),
    "palette.png": (lambda a: encode("PNG", Image.fromarray(a // 128 * 128).quantize(8)), lambda a: a // 128 * 128, 0),
    "palette.bmp": (lambda a: encode("BMP", Image.fromarray(a // 128 * 128).quantize(8)), lambda a: a // 128 * 128, 0),
    "16bit.png": (lambda a: cv2.imencode(".png", a[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), same, 0),
    "16bit.tif": (lambda a: cv2.imencode(".tif", a[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), same, 0),
    "16bit-dim.png": (lambda a: cv2.imencode(".png", a[..., 0].astype(np.uint16) * 255)[1].tobytes(), grey, 2),
    "16bit-grey.png": (lambda a: cv2.imencode(".png", a[..., 0].astype(np.uint16) * 257)[1].tobytes(), grey, 0),
    "named wrongly.png": (lambda a: encode("TIFF", Image.fromarray(a)), same, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, pixels: np.ndarray, name: str) -> None:
    write, expect, tolerance = KINDS[name]
    path = tmp_path / name
    path.write_bytes(write(pixels))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.abs(image.astype(int) - expect(pixels)).max() <= tolerance
    assert image_size(path) == (60, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "TIFF 16 bit"])
def test_orientation_is_not_applied(tmp_path: Path, pixels: np.ndarray, kind: str, orientation: int) -> None:
    path = tmp_path / "turned"
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if "16" in kind else Image.fromarray(pixels)
    options = JPEG if kind == "JPEG" else {}
    path.write_bytes(encode(kind.split()[0], image, exif=exif, **options))
    expected = grey(pixels) if "16" in kind else pixels
    assert image_size(path) == (60, 40)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", "TIFF", "tiff_lzw", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99, 1.0], ids=lambda share: f"cut at {share}")
def test_a_cut_image_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8))
    options: dict[str, object] = {"progressive": {"progressive": True}, "tiff_lzw": {"compression": "tiff_lzw"}}.get(kind, {})
    data = encode({"progressive": "JPEG", "tiff_lzw": "TIFF"}.get(kind, kind), noise, **options)
    path = tmp_path / "cut"
    path.write_bytes(data)
    assert read_image(path).shape == (100, 150, 3)
    path.write_bytes(data[: min(int(len(data) * share), len(data) - 1)])
    with pytest.raises(UserError, match=r"cut: found .*(cut off|does not decode)"):
        read_image(path)


def test_a_cut_jpeg_with_a_whole_thumbnail_is_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    thumbnail = encode("JPEG", Image.fromarray(pixels).resize((16, 16)))
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    data = encode("JPEG", Image.fromarray(pixels))
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + segment + data[2:] + b"trailing bytes are fine")
    assert read_image(path).shape == pixels.shape
    path.write_bytes((data[:2] + segment + data[2:])[:-40])
    with pytest.raises(UserError, match="cut off"):
        read_image(path)


BROKEN = {
    "empty file": lambda path: path.write_bytes(b""),
    "text file": lambda path: path.write_text("this is no image"),
    "no such file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "type float32": lambda path: path.write_bytes(cv2.imencode(".tif", np.ones((3, 4), np.float32))[1].tobytes()),
    "type int16": lambda path: path.write_bytes(cv2.imencode(".tif", np.ones((3, 4), np.int16))[1].tobytes()),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("function", [read_image, image_size])
def test_what_is_no_image_is_explained(tmp_path: Path, name: str, function: Callable[[Path], object]) -> None:
    path = tmp_path / "a.png"
    BROKEN[name](path)
    if function is image_size and "type" in name:
        assert image_size(path) == (4, 3)
        return
    with pytest.raises(UserError) as error:
        function(path)
    assert str(error.value).startswith(f"{path}: found ")
    assert name in str(error.value) or name == "text file"


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3), (1, (1 << 20) + 1, 3)], ids=str)
def test_extreme_shapes(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """The last one is wider than opencv accepts."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(encode("PNG", Image.fromarray(image), compress_level=1))
    assert (read_image(path) == image).all()
    assert image_size(path) == (shape[1], shape[0])


def test_large_images_pass_pillows_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode("PNG", Image.new("1", (30000, 10000)), compress_level=1))  # 300 megapixels
    assert image_size(path) == (30000, 10000)
    assert Image.MAX_IMAGE_PIXELS is not None  # other users of Pillow keep their limit


def test_real_rasters(shared: Path) -> None:
    geo = shared / "data" / "geo"
    assert read_image(geo / "RGB.byte.tif").shape == (718, 791, 3)
    assert read_image(geo / "sample_geotiff.tif").shape == (900, 900, 3)  # 16 bit
    assert image_size(geo / "cog_world.tif") == (36000, 18000)
    with pytest.raises(UserError, match="float32"):
        read_image(geo / "float_nan.tif")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "c.tif", "notes.txt", "._b.png", "sub/d.bmp"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", ["a.JPG", "b.png", "c.tif"]),  # neither hidden files nor subfolders
        ("b.png", ["b.png"]),
        ("*.png", ["b.png"]),
        ("*", ["a.JPG", "b.png", "c.tif"]),
        ("**/*.bmp", ["d.bmp"]),
        ("[ab].*", ["a.JPG", "b.png"]),
        ("../scenes/c*", ["c.tif"]),
    ],
)
def test_list_images(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, names: list[str]) -> None:
    assert [path.name for path in list_images(folder / source)] == names
    monkeypatch.chdir(folder)
    assert [path.name for path in list_images(source or ".")] == names


@pytest.mark.parametrize("source", ["missing", "missing.png", "*.gif", "nowhere/*.png", "*.txt", "empty"])
def test_list_images_explains_what_it_looked_for(folder: Path, source: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError) as error:
        list_images(folder / source)
    assert str(folder / source) in str(error.value)


def test_write_png_is_exact_and_leaves_nothing_else(tmp_path: Path, pixels: np.ndarray) -> None:
    write_png(tmp_path / "a.png", pixels)
    assert (read_image(tmp_path / "a.png") == pixels).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_lies_beyond_an_edge_is_the_mean_that_networks_subtract() -> None:
    assert tuple(round(value) for value in MEAN) == reading.FILL


def test_threads_leave_the_libraries_as_they_were(tmp_path: Path) -> None:
    """Readers that overlap must not keep each other's change of global state, nor end it under another's hands."""
    limit, level, filters = Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel(), list(warnings.filters)
    first, second = threading.Event(), threading.Event()

    def hold(entered: threading.Event, leave: threading.Event) -> None:
        with reading._pillow_without_limit, reading._opencv_silent:
            entered.set()
            assert leave.wait(10)
            assert Image.MAX_IMAGE_PIXELS is None

    with ThreadPoolExecutor(2) as pool:
        go_first, go_second = threading.Event(), threading.Event()
        one = pool.submit(hold, first, go_first)
        first.wait(10)
        other = pool.submit(hold, second, go_second)
        second.wait(10)
        go_first.set()
        one.result()
        assert Image.MAX_IMAGE_PIXELS is None
        go_second.set()
        other.result()
    assert (Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel()) == (limit, level)
    assert list(warnings.filters) == filters


def test_a_tiff_of_impossible_numbers(tmp_path: Path, pixels: np.ndarray) -> None:
    """Pillow's own parser falls over these; whatever it raises, the answer is a message."""
    data = encode("TIFF", Image.fromarray(pixels))
    path = tmp_path / "a.tif"
    refused = 0
    for at in range(10, 140, 2):
        for number in (2**32 - 1, 2**31, 0):
            path.write_bytes(data[:at] + number.to_bytes(4, "little") + data[at + 4 :])
            for function in (read_image, image_size, check_image):
                try:
                    function(path)
                except UserError:
                    refused += 1
    assert refused > 100


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_header_cannot_claim_more_than_the_file_holds(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    """A few hundred bytes took gigabytes, and minutes to fill with nothing."""
    data = bytearray(encode(kind, Image.fromarray(pixels)))
    at = {"PNG": 20, "TIFF": 8 + 2 + 12 + 8, "BMP": 22}[kind]
    data[at : at + 4] = (16842752).to_bytes(4, "big" if kind == "PNG" else "little")
    if kind == "TIFF":
        data[at - 6 : at - 4] = (4).to_bytes(2, "little")  # height as a long number
    if kind == "PNG":
        data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path = tmp_path / "a"
    path.write_bytes(data)
    for function in (read_image, image_size, check_image):
        with pytest.raises(UserError, match="claims 60 x 16842752 pixels"):
            function(path)


def test_decode_image_opens_no_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (10, 20, 3)).astype(np.uint8)
    assert (decode_image(tmp_path / "not there", encode("PNG", Image.fromarray(image))) == image).all()
