"""Where a raster lies on the ground: from its pixels to its coordinate system, to longitude and latitude, to metres."""

import threading
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rotanext.errors import UserError, explain, extra
from rotanext.geo.mapping import Affine, Mapping, fit_gcps
from rotanext.system.gdal import load_rasterio

if TYPE_CHECKING:
    from pyproj import CRS, Geod, Transformer

_SQUARE = 1 - 1e-6  # sides this alike count as equal: the box's own long side then keeps its name
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Georeference:
    """A raster's place on the ground.

    crs is pyproj's CRS (two-dimensional, used with x before y), or None where the file names none: coordinates are then in the
    file's own units, and there are no metres and no longitudes. mapping leads from pixels to the CRS and back; size is the
    raster's width and height. residual is the largest miss of a GCP in pixels, 0 for a geotransform.

    Pixels `[N, 2]` are those of the boxes: x right, y down, (0, 0) the outer corner of the first pixel, whose middle is (0.5, 0.5).
    GDAL's geotransforms and GCPs mean the same, so nothing is shifted by half a pixel.
    """

    crs: "CRS | None"
    mapping: Mapping
    size: tuple[int, int]
    residual: float = 0.0

    @classmethod
    def of(cls, dataset: Any) -> Self | None:
        """The georeference of an open rasterio dataset.

        A geotransform may be rotated, sheared, flipped. Without one, GCPs are fitted (see `fit_gcps`). None where there is neither,
        where the geotransform is the identity (how GDAL says "none") or cannot be inverted, and where there are fewer than three
        GCPs or all are on a line. RPCs (satellite images before orthorectification) are not used: they need a terrain model.
        """
        size = (int(dataset.width), int(dataset.height))
        if _has_transform(dataset):
            a, b, c, d, e, f = tuple(dataset.transform)[:6]
            affine = Affine(np.array([[a, b], [d, e]], np.float64), np.array([c, f], np.float64))
            return cls(_crs(dataset.crs, dataset.name), affine, size) if affine.invertible else None
        gcps, code = dataset.gcps
        crs = _crs(code, dataset.name)
        ground = np.array([(gcp.x, gcp.y) for gcp in gcps], np.float64).reshape(-1, 2)
        if crs is not None and crs.is_geographic and len(ground) and np.ptp(ground[:, 0]) > 180:
            ground[:, 0] %= 360  # across the 180th meridian
        pixels = np.array([(gcp.col, gcp.row) for gcp in gcps], np.float64).reshape(-1, 2)
        fitted = fit_gcps(pixels, ground, size)
        return None if fitted is None else cls(crs, fitted[0], size, fitted[1])

    @staticmethod
    def claimed(dataset: Any) -> bool:
        """Whether an open rasterio dataset has a geotransform or GCPs, out of which `of` may make nothing all the same."""
        return _has_transform(dataset) or bool(dataset.gcps[0])

    @classmethod
    def read(cls, path: str | Path) -> Self | None:
        """The georeference of an image file (a world file or `.aux.xml` beside it counts), as `of` gives it.

        Raises `UserError` where the file cannot be opened or the extra is missing.
        """
        rasterio = load_rasterio(str(path))
        try:
            with _lock, warnings.catch_warnings():  # whose filters are one for all threads
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with rasterio.open(path) as dataset:
                    return cls.of(dataset)
        except rasterio.errors.RasterioError as error:
            advice = "Check the file."
            raise UserError(explain(path, f"that it cannot be opened ({error})", "a raster", advice)) from error

    def to_ground(self, points: np.ndarray) -> np.ndarray:
        """Coordinates `[N, 2]` float64 in the CRS (x before y) of pixels `[N, 2]`; NaN where the mapping has none."""
        return self.mapping.forward(np.asarray(points, np.float64))

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Pixels `[N, 2]` float64 of coordinates in the CRS: the inverse of `to_ground`."""
        return self.mapping.backward(np.asarray(points, np.float64))

    def to_lonlat(self, points: np.ndarray) -> np.ndarray:
        """Longitude and latitude (EPSG:4326, degrees) `[N, 2]` of pixels `[N, 2]`; NaN where the CRS has none.

        In a geographic CRS longitudes run on past 180, as the raster's do. Raises `UserError` where `located` is false.
        """
        ground = self.to_ground(points)
        lonlat = _transform(self._known(self._lonlat), ground)
        if self.geographic:
            lonlat[:, 0] += 360 * np.round(np.nan_to_num(ground[:, 0] * self._degrees - lonlat[:, 0]) / 360)
        return lonlat

    def nearest_turn(self, ground: np.ndarray) -> np.ndarray:
        """Coordinates `[N, 2]` in the CRS; in a geographic one moved by whole turns to within 180 degrees of the middle."""
        if not self.geographic:
            return ground
        middle = self.to_ground(np.array([self.size]) / 2)[0, 0]
        turn = 360 / self._degrees
        return ground + np.stack([turn * np.round((middle - ground[:, 0]) / turn), np.zeros(len(ground))], 1)

    @cached_property
    def geographic(self) -> bool:
        """Whether the CRS's own coordinates are longitude and latitude."""
        return self.crs is not None and bool(self.crs.is_geographic)

    @property
    def located(self) -> bool:
        """Whether longitudes, latitudes and metres are known: the CRS is there, and is not a local one."""
        return self._lonlat is not None

    def measure(self, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lengths, widths (metres) and headings (degrees), `[N]` each, of boxes' corners `[N, 4, 2]` in pixels.

        Geodesic distances on the CRS's ellipsoid (Karney, 2013) between the middles of opposite sides; the length is the longer.
        The heading is the direction of the long side in the box's middle, clockwise from true north, in [0, 180): boxes have no
        front. Pixels that are no squares on the ground make a box a parallelogram, whose sides these are. NaN where the ground is
        not known. Raises `UserError` where `located` is false.
        """
        geodetic, geod = self._known(self._geodetic), self._known(self._geod)
        corners = np.asarray(corners, np.float64)
        after = (corners + np.roll(corners, -1, 1)) / 2  # middles of the sides: top, right, bottom, left
        points = np.concatenate([after, corners.mean(1, keepdims=True)], 1)
        degrees = _transform(geodetic, self.to_ground(points.reshape(-1, 2))) * self._degrees
        top, right, bottom, left, middle = np.moveaxis(degrees.reshape(-1, 5, 2), 1, 0)
        along, across = _inverse(geod, left, right)[1], _inverse(geod, top, bottom)[1]
        own = along >= across * _SQUARE
        heading = _inverse(geod, middle, np.where(own[:, None], right, bottom))[0] % 180
        length, width = np.where(own, along, across), np.where(own, across, along)
        return np.maximum(length, width), np.minimum(length, width), np.where(heading >= 180, 0.0, heading)

    @cached_property
    def _lonlat(self) -> "Transformer | None":
        return None if self.crs is None else _transformer(self.crs, 4326)

    @cached_property
    def _geodetic(self) -> "Transformer | None":
        """To the longitudes and latitudes of the CRS's own datum."""
        return None if self.crs is None or self.crs.geodetic_crs is None else _transformer(self.crs, self.crs.geodetic_crs.to_2d())

    @cached_property
    def _geod(self) -> "Geod | None":
        return None if self.crs is None else self.crs.get_geod()

    @cached_property
    def _degrees(self) -> float:
        """Degrees in a unit of the CRS's longitudes (grads exist)."""
        if self.crs is None or self.crs.geodetic_crs is None:
            return 1.0
        return round(float(np.rad2deg(self.crs.geodetic_crs.axis_info[0].unit_conversion_factor)), 12)

    def _known(self, part: Any) -> Any:
        if part is None:
            found = "no coordinate system" if self.crs is None else f"the local coordinate system {self.crs.name!r}"
            raise UserError(
                explain("raster", found, "one with a place on the earth", "Assign it, for example with gdal_edit.py -a_srs.")
            )
        return part


def _has_transform(dataset: Any) -> bool:
    return tuple(dataset.transform)[:6] != (1, 0, 0, 0, 1, 0)


def _crs(code: Any, name: str) -> "CRS | None":
    """Pyproj's CRS of rasterio's, of the raster `name`; None where there is none."""
    if not code:
        return None
    with extra("geo", "a raster with a coordinate system"):
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    try:
        return CRS.from_wkt(code.to_wkt()).to_2d()
    except CRSError as error:
        raise UserError(
            explain(name, f"a coordinate system that PROJ refuses ({error})", "a valid one", "Assign it anew.")
        ) from error


def _transformer(source: Any, target: Any) -> "Transformer | None":
    """From one CRS to another, x before y in both; None where no path leads there."""
    with extra("geo", "coordinates on the ground"):
        from pyproj import Transformer
        from pyproj.exceptions import ProjError
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError:
        return None


def _transform(transformer: "Transformer", points: np.ndarray) -> np.ndarray:
    found = np.stack(transformer.transform(points[:, 0], points[:, 1]), 1)
    return np.where(np.isfinite(found).all(1, keepdims=True), found, np.nan)


def _inverse(geod: "Geod", start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Azimuth at the start (degrees) and distance (metres), NaN where a point is."""
    known = np.isfinite(start).all(1) & np.isfinite(end).all(1)
    azimuth, _, distance = geod.inv(*np.where(known[:, None], start, 0.0).T, *np.where(known[:, None], end, 0.0).T)
    return np.where(known, azimuth, np.nan), np.where(known, distance, np.nan)
