"""The one door to images and rasters: training, evaluation, prediction and pages read the same values from the same file.

Which reader a file gets is decided here alone. Rasters (`RASTER_SUFFIXES`, TIFF among them) are GDAL's, by `RasterOptions`, and so
are images too large to be decoded at once; all others, and TIFFs where the extra `geo` is not installed, are `read_image`'s.
"""

import math
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rotanext.geo.georeference import Georeference
from rotanext.images.raster import RASTER_SUFFIXES, Raster, RasterOptions, settings
from rotanext.images.reading import (
    IMAGE_SUFFIXES,
    check_file,
    check_image,
    read_up_to,
)
from rotanext.images.resize import resize_to_fit

SCENE_SUFFIXES = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *RASTER_SUFFIXES)))
DECODED_AT_ONCE = 64_000_000  # pixels; larger images are read in windows, as rasters are
_WHOLE = 32_000_000  # pixels: a scene on disk up to this size is read whole where it is resized
_DEFAULT = RasterOptions()

Crop = np.ndarray  # uint8 RGB [H, W, 3]


class Scene(Protocol):
    """An image that is read in windows: in memory (`ImageScene`) or on disk (`Raster`)."""

    width: int
    height: int

    def read(self, x: int, y: int, width: int, height: int) -> tuple[Crop, np.ndarray | None]:
        """Uint8 RGB `[height, width, 3]` of a window inside the scene, and which pixels hold data (None: all)."""
        ...

    def overview(self, size: int) -> Crop:
        """The whole scene, its longer side shrunk to at most `size` pixels."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class FileScene(Scene, Protocol):
    """A scene of a file, which may also say what its colours come from and where it lies."""

    @property
    def how(self) -> str | None:
        """What a raster's colours come from, in words; None of an image, whose colours are its own."""
        ...

    @property
    def claims_place(self) -> bool:
        """Whether it says where it lies, be it nonsense of which no georeference can be made."""
        ...

    def georeference(self) -> Georeference | None:
        """Where its pixels lie on the ground; None where it does not say, as of images."""
        ...


class ImageScene:
    """A scene in memory: uint8 RGB `[H, W, 3]`."""

    how = None
    claims_place = False

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]

    def read(self, x: int, y: int, width: int, height: int) -> tuple[Crop, np.ndarray | None]:
        """See `Scene.read`; a view."""
        return self.image[y : y + height, x : x + width], None

    def overview(self, size: int) -> Crop:
        """See `Scene.overview`."""
        return resize_to_fit(self.image, min(size, max(self.width, self.height)))[0]

    def georeference(self) -> None:
        """See `FileScene.georeference`."""

    def close(self) -> None:
        """Nothing to let go of."""


def reads_rasters() -> bool:
    """Whether GDAL is here: the extra `geo` is installed."""
    return find_spec("rasterio") is not None


def raster_settings() -> Any:
    """The context to read rasters in, see `raster.settings`; one without effect where there is no GDAL."""
    return settings() if reads_rasters() else nullcontext()


def is_raster(name: str | Path) -> bool:
    """Whether a file of this name is GDAL's, whatever its size."""
    suffix = Path(name).suffix.lower()
    return suffix in RASTER_SUFFIXES and (reads_rasters() or suffix not in IMAGE_SUFFIXES)


def open_scene(path: str | Path, options: RasterOptions = _DEFAULT) -> FileScene:
    """A file as a scene: rasters and huge images are read in windows, other images are decoded at once.

    Raises UserError like `read_image` and `Raster`.
    """
    path = Path(path)
    image = _decoded(path)
    return Raster(path, options) if image is None else ImageScene(image)


def read_pixels(path: str | Path, options: RasterOptions = _DEFAULT) -> np.ndarray:
    """A whole file as uint8 RGB `[H, W, 3]`: what all windows of `open_scene` are together.

    Pixels without data have their stored values; what is not a number is 0. Raises UserError like `read_image` and `Raster`.
    """
    path = Path(path)
    image = _decoded(path)
    if image is not None:
        return image
    check_file(path)
    with settings(), Raster(path, options) as raster:
        return raster.read(0, 0, raster.width, raster.height)[0]


def check_pixels(path: str | Path) -> tuple[int, int]:
    """Width and height of a file that `read_pixels` reads, by its header and its end alone where they tell; see `check_image`."""
    return check_image(path, read_pixels)


def shrunk(scene: Scene, size: int) -> tuple[ImageScene, float]:
    """A scene resized to fit a square of `size` pixels, and the scale applied; a huge one by way of its overview."""
    whole = isinstance(scene, ImageScene) or scene.width * scene.height <= _WHOLE
    image = scene.read(0, 0, scene.width, scene.height)[0] if whole else scene.overview(2 * size)
    resized, _ = resize_to_fit(image, size)
    return ImageScene(resized), size / max(scene.width, scene.height)


def _decoded(path: Path) -> np.ndarray | None:
    """The pixels of a file that is decoded at once; None of one that GDAL reads: a raster, or an image too large for that."""
    return None if is_raster(path) else read_up_to(path, DECODED_AT_ONCE if reads_rasters() else math.inf)
