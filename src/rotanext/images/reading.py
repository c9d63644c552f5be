"""Reading images of every common kind into one form, and writing PNG."""

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from rotanext.errors import UserError, explain
from rotanext.system.files import write_bytes

FILL = (124, 116, 104)  # RGB beyond an image's edge: models.network.MEAN, rounded; torch is not imported for it
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

# opencv refuses larger images (settable only by an environment variable before its import); Pillow decodes those.
_OPENCV_SIDE, _OPENCV_PIXELS = 1 << 20, 1 << 30
# zlib's fastest level, every row as its difference from the one above: as fast as opencv's default, and a quarter smaller
PNG_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
_FEW_PIXELS = 100_000_000  # take little memory, whatever the file
_PIXELS_A_BYTE = 8 * 1032  # at most: one-bit pixels, deflated
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TAIL = 1 << 16  # bytes at the end of a file in which its end marker is looked for


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as uint8 RGB `[H, W, 3]`, its pixels as they are stored; `scenes.read_pixels` also reads rasters.

    Grey and palette images become RGB, an alpha channel (or any fourth band) is dropped. 16-bit values are divided
    by 257 and rounded, so that 0..65535 becomes 0..255 whatever the image holds; 11- or 12-bit data come out dark
    and are better stretched beforehand. EXIF and TIFF orientation are not applied, because labels are in stored
    pixels. Of several pages the first is read.

    Raises `UserError` for a missing or empty file, a file that is no image, is cut off or claims more pixels than it
    can hold, and pixels that are neither 8 nor 16 bit unsigned (float and signed rasters have no range that everybody means).
    """
    path = Path(path)
    return decode_image(path, read_bytes(path))


def read_up_to(path: Path, pixels: float) -> np.ndarray | None:
    """`read_image` of an image of at most so many pixels; None of a larger one, of which only the header is read.

    The file is opened once.
    """
    with _reading(path) as file:
        size = header_size(file)
        _check_claim(path, size, path.stat().st_size)
        if size and size[0] * size[1] > pixels:
            return None
        file.seek(0)
        data = file.read()
    return decode_image(path, data, size)


def decode_image(name: str | Path, data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """The same of a file's bytes; `name` is what messages call it, and is not opened; `size` its header's, where it is known."""
    _check_whole(name, data)
    _check_claim(name, size or header_size(io.BytesIO(data)), len(data))
    pixels = _decode(_as_stored(data))
    if pixels is None:
        raise _not_decoded(name)
    return _to_rgb(name, pixels)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in stored pixels, from the header alone where it can be read; raises like `read_image`."""
    path = Path(path)
    check_file(path)
    try:
        with path.open("rb") as file:
            size = header_size(file)
    except OSError:
        size = None  # `read_image` says why
    _check_claim(path, size, path.stat().st_size)
    return size or _size_of(read_image(path))


def check_image(path: str | Path, read: Callable[[Path], np.ndarray] = read_image) -> tuple[int, int]:
    """Width and height of an image whose header and end are there, without decoding it; raises like `read_image`.

    Finds files that are empty, cut off or no images at a fraction of the cost of reading them; damage within shows only when
    an image is decoded, which `read` does where header and end do not tell. The file is opened once.
    """
    path = Path(path)
    check_file(path)
    length = path.stat().st_size
    try:
        with path.open("rb") as file:
            start = file.read(4)
            size, needed = _header(file)
            file.seek(max(0, length - _TAIL))
            end = file.read()
    except OSError:
        return _size_of(read(path))  # which says why
    _check_claim(path, size, length)
    if size is None:
        return _size_of(read(path))
    if start.startswith((b"\xff\xd8", b"\x89PNG")):
        if (b"\xff\xd9" if start[0] == 0xFF else b"IEND") not in end:
            _check_whole(path, read_bytes(path))
    elif needed is None or needed > length:
        read(path)
    return size


def list_images(source: str | Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Images named by a file, a folder (not its subfolders) or a glob pattern, sorted; `UserError` if none."""
    path = Path(source)
    kinds = " ".join(suffixes)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if _is_image(entry, suffixes))
        if not found:
            advice = f"Did you mean {path / 'images'}?" if (path / "images").is_dir() else "Check the folder."
            raise UserError(explain(path, "no images in this folder", f"files ending in {kinds}", advice))
        return found
    if not any(mark in str(source) for mark in "*?["):
        advice = "Check the path; a glob pattern such as 'scenes/*.png' goes in quotation marks."
        raise UserError(explain(path, "nothing there", "an image, a folder of images or a glob pattern", advice))
    root = Path(path.anchor or ".")
    found = sorted(entry for entry in root.glob(str(path.relative_to(path.anchor))) if _is_image(entry, suffixes))
    if not found:
        raise UserError(explain(path, "no image that matches this pattern", f"files ending in {kinds}", "Check it."))
    return found


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 RGB `[H, W, 3]` as PNG, quickly rather than small; the file appears whole or not at all."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), PNG_FAST)
    if not ok:
        raise UserError(explain(path, f"an image of shape {image.shape}", "one that encodes", "Use a smaller one."))
    write_bytes(path, data.tobytes())


def _is_image(path: Path, suffixes: tuple[str, ...]) -> bool:
    # Names with a leading dot are the leftovers of copying programs ("._P0001.png"), not images.
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def check_file(path: Path) -> None:
    """Raise UserError for what is not there, a folder, or an empty file."""
    if path.is_dir():
        raise UserError(explain(path, "a folder", "an image file", "Name a file inside it."))
    if not path.is_file():
        raise UserError(explain(path, "no such file", "an image file", "Check the path."))
    if path.stat().st_size == 0:
        raise UserError(explain(path, "an empty file", "an image file", "Copy or download it again."))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that is to be an image; UserError where there are none to be had."""
    with _reading(path) as file:
        return file.read()


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """A file that is to be an image, open; UserError where it cannot be read."""
    check_file(path)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        advice = "Check its permissions."
        raise UserError(explain(path, f"that it cannot be read ({error.strerror})", "a readable file", advice)) from error


def _not_decoded(path: str | Path) -> UserError:
    expected = "a complete PNG, JPEG, TIFF or BMP image"
    return UserError(explain(path, "a file that does not decode", expected, "Open it in a viewer, or copy it again."))


def _check_whole(path: str | Path, data: bytes) -> None:
    """Refuse a cut JPEG or PNG, whose missing part some versions of opencv silently fill with grey or black."""
    cut = None
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        # Compressed data escape FF, so after the last start of scan (FFDA) an FFD9 can only be the end of the image.
        cut = "a JPEG that is cut off (no end-of-image marker)"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        at = 8
        while data[at + 4 : at + 8] not in (b"IEND", b""):
            at += 12 + struct.unpack_from(">I", data, at)[0]
        if at + 12 > len(data):
            cut = "a PNG that is cut off (no IEND chunk)"
    if cut:
        raise UserError(explain(path, cut, "a complete image", "Copy or download it again."))


def header_size(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height in stored pixels, as the header says; None where it cannot be told."""
    return _header(file)[0]


def _header(file: IO[bytes]) -> tuple[tuple[int, int] | None, int | None]:
    """Width and height as the header says, and how long a TIFF must be to hold its strips or tiles; None where it does not tell."""
    needed = None
    try:
        file.seek(0)
        prefix = file.read(16)
        file.seek(0)
        with _pillow_without_limit:
            if prefix[:4] in _TIFF:  # by its tags: Pillow refuses many kinds of pixels, and swaps sides by orientation
                tags = TiffImagePlugin.ImageFileDirectory_v2(prefix[: 16 if b"+" in prefix[:4] else 8])
                file.seek(tags.next)
                tags.load(file)
                width, height = int(tags[256]), int(tags[257])
                offsets, lengths = (tags.get(273) or tags.get(324), tags.get(279) or tags.get(325))
                if offsets and lengths:
                    needed = max(at + length for at, length in zip(offsets, lengths, strict=False))
            else:
                with Image.open(file) as image:
                    width, height = image.size
    except Exception:  # Pillow's readers fail in a dozen ways on damaged files
        return None, None
    return ((width, height), needed) if width > 0 and height > 0 else (None, None)


def _size_of(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _check_claim(path: str | Path, size: tuple[int, int] | None, length: int) -> None:
    """Refuse a header that claims more pixels than the file can hold, before memory is taken for them."""
    if size and size[0] * size[1] > max(_FEW_PIXELS, _PIXELS_A_BYTE * length):
        found = f"a header that claims {size[0]} x {size[1]} pixels, in a file of {length} bytes"
        raise UserError(explain(path, found, "no more pixels than it can hold", "It is damaged: copy or download it again."))


def _as_stored(data: bytes) -> bytes | bytearray:
    """The same file, a TIFF's tags changed so that opencv neither turns the image nor multiplies alpha into it."""
    if data[:4] not in _TIFF:
        return data
    changed = bytearray(data)
    order, big = ("<" if data[:2] == b"II" else ">"), b"+" in data[:4]
    try:
        at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
        first, step, value = (at + 8, 20, 12) if big else (at + 2, 12, 8)
        for entry in range(first, min(first + count * step, len(data)), step):
            tag = struct.unpack_from(order + "H", data, entry)[0]
            if tag in (274, 338):  # orientation: top-left first; kind of the fourth band: alpha already multiplied in
                struct.pack_into(order + "H", changed, entry + value, 1)
    except struct.error:
        return data  # cut off: the decoder says so
    return changed


def _decode(data: bytes | bytearray) -> np.ndarray | None:
    """Pixels with opencv's channel order (BGR, BGRA or grey) and the stored depth; None where they do not decode."""
    try:
        with _opencv_silent:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    return _decode_huge(data) if pixels is None else pixels


def _decode_huge(data: bytes | bytearray) -> np.ndarray | None:
    """Decode with Pillow what is too large for opencv; None for anything else."""
    try:
        with _pillow_without_limit, Image.open(io.BytesIO(data)) as image:
            if max(image.size) <= _OPENCV_SIDE and image.width * image.height <= _OPENCV_PIXELS:
                return None
            return np.asarray(image.convert("RGB"))[..., ::-1]
    except Exception:  # see _header
        return None


class _Shared:
    """A change of a library's global state that lasts as long as any thread is inside."""

    def __init__(self, change: Callable[[], AbstractContextManager[None]]) -> None:
        self._change, self._lock, self._inside = change, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._changed = self._change()
                self._changed.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._changed.__exit__(None, None, None)


@contextmanager
def _without_limit() -> Iterator[None]:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that nobody here reads
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _silent() -> Iterator[None]:
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


_pillow_without_limit = _Shared(_without_limit)  # all aerial images look like decompression bombs to it
_opencv_silent = _Shared(_silent)  # its warnings about every GeoTIFF tag and its errors would bury ours


def _to_rgb(path: str | Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    if pixels.dtype != np.uint8:
        advice = "Convert it first, for example with `gdal_translate -ot Byte -scale`."
        raise UserError(explain(path, f"pixels of type {pixels.dtype}", "8 or 16 bit unsigned ones", advice))
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if channels in (3, 4):
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGB)
    raise UserError(explain(path, f"{channels} bands", "1, 3 or 4", "Keep red, green and blue."))
