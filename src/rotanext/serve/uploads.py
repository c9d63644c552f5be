"""From an upload's bytes to a scene: by magic bytes, after its header was checked, never by a name or a path."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np

from rotanext.errors import UserError
from rotanext.images.raster import Raster
from rotanext.images.reading import decode_image
from rotanext.images.scenes import Crop, ImageScene, Scene, reads_rasters
from rotanext.serve.limits import Limits, Refused, check_pixels
from rotanext.system.gdal import load_rasterio

NAME = "the image"  # in messages
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_DRIVERS = {"TIFF": "GTiff", "JPEG 2000": "JP2OpenJPEG"}  # a VRT's text within a TIFF would otherwise make it one
_SEGMENTS = 10_000  # of a JPEG, before its first frame
_GRIDS = ("nadgrids", "geoidgrids", "+grids", "xy_grids", "+init", "parameterfile")  # with these a CRS names files


def kind_of(data: bytes) -> str:
    """PNG, JPEG, TIFF or JPEG 2000 by the first bytes; `Refused` (415, or 422 where there are none) for anything else."""
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if not data:
        raise Refused(422, "the upload is empty; expected an image")
    raise Refused(415, "the upload is none of PNG, JPEG, TIFF (GeoTIFF) and JPEG 2000, by its first bytes")


class Upload:
    """An image that was sent: a scene, with its kind, its georeference where it has one, and remarks for the sender.

    Whatever goes wrong with reading it is a `UserError` or `Refused`. Use it in a `with`.
    """

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.kind = kind_of(data)
        self.notes: list[str] = []
        self.georeference: Any = None
        self._memory: Any = None
        self._scene: Scene
        with _blaming_the_file():
            if self.kind in _DRIVERS and reads_rasters():
                self._open_raster(data, limits)
            else:
                size = _size_in_header(self.kind, data, limits)
                check_pixels(*size, limits)
                self._scene = ImageScene(decode_image(NAME, data, size))
        self.width, self.height = self._scene.width, self._scene.height

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, x: int, y: int, width: int, height: int) -> tuple[Crop, np.ndarray | None]:
        """See `Scene.read`."""
        with _blaming_the_file():
            return self._scene.read(x, y, width, height)

    def overview(self, size: int) -> Crop:
        """See `Scene.overview`."""
        with _blaming_the_file():
            return self._scene.overview(size)

    def close(self) -> None:
        """Let go of the bytes."""
        if scene := getattr(self, "_scene", None):
            scene.close()
        if self._memory is not None:
            self._memory.close()

    def _open_raster(self, data: bytes, limits: Limits) -> None:
        """By GDAL, from memory, with the one driver of this kind."""
        from rasterio.io import MemoryFile

        rasterio, driver = load_rasterio(), _DRIVERS[self.kind]
        self._memory = MemoryFile(data)
        try:
            with rasterio.open(self._memory.name, driver=driver) as file:
                itemsize = sum(np.dtype(kind).itemsize for kind in file.dtypes)
                check_pixels(file.width, file.height, limits, itemsize)
                for block_height, block_width in file.block_shapes[:1]:
                    check_pixels(block_width, block_height, limits, itemsize)
                grids = _names_files(file.crs.to_wkt() if file.crs else "")
            raster = Raster(self._memory.name, driver=driver)
            self._scene = raster
            self.notes.append(raster.how)
            if grids:
                self.notes.append("no georeference: its coordinate system refers to files")
            else:
                self._locate(raster)
        except BaseException:
            self.close()
            raise

    def _locate(self, raster: Raster) -> None:
        """Find where it lies; what is wrong with that does not keep anybody from detecting in it."""
        try:
            with _blaming_the_file():
                self.georeference = raster.georeference()
        except UserError as error:
            self.notes.append(f"no georeference: {error}")
        if self.georeference is not None and not self.georeference.located:
            self.georeference = None
            self.notes.append("no georeference: its coordinate system has no place on the earth")


@contextmanager
def _blaming_the_file() -> Iterator[None]:
    """Readers of other people's bytes fail in a dozen ways; all of them are the file's fault."""
    try:
        yield
    except (UserError, Refused):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{NAME} cannot be read ({reason})") from error


def _names_files(wkt: str) -> bool:
    """Whether a coordinate system would have PROJ open files."""
    text = wkt.lower().replace("nadgrids=@null", "")
    return any(word in text for word in _GRIDS)


def _size_in_header(kind: str, data: bytes, limits: Limits) -> tuple[int, int]:
    """Width and height as the header says; `Refused` where there are none."""
    try:
        if kind == "PNG" and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if kind == "JPEG":
            return _jpeg_size(data)
        if kind == "TIFF":
            return _tiff_size(data, limits)
    except (struct.error, IndexError, ValueError, KeyError):
        pass
    if kind == "JPEG 2000":
        raise Refused(415, "this server reads JPEG 2000 only with the extra geo: pip install 'rotanext[geo]'")
    raise Refused(422, f"the {kind} has no header that tells its size; it is damaged or cut off")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Of the first frame; struct.error, IndexError or ValueError where there is none."""
    at = 2
    for _ in range(_SEGMENTS):
        at = data.index(b"\xff", at) + 1
        marker = data[at]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 4)
            return width, height
        if marker not in (0, 1, 0xFF) and not 0xD0 <= marker <= 0xD8:  # those have no length
            at += 1 + max(2, struct.unpack_from(">H", data, at + 1)[0])
    raise IndexError


def _tiff_size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Without GDAL; memory that samples, bits and tiles would take is checked, too."""
    from PIL import Image

    with Image.open(BytesIO(data), formats=["TIFF"]) as image:
        tags = getattr(image, "tag_v2", {})
        width, height = int(tags[256]), int(tags[257])
        bits = tags.get(258, (8,))
        itemsize = max(1, int(tags.get(277, 1)) * max(bits if isinstance(bits, tuple) else (bits,)) // 8)
        check_pixels(int(tags.get(322, width)), int(tags.get(323, height)), limits, itemsize)
        check_pixels(width, height, limits, itemsize)
    return width, height
