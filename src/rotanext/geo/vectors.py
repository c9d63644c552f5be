"""Detections as GeoJSON, GeoPackage and GeoParquet, for geographic information systems."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rotanext.boxes import boxes_to_corners
from rotanext.detections import Detections
from rotanext.errors import extra
from rotanext.geo.georeference import Georeference
from rotanext.geo.rings import close, cut, unroll, wind
from rotanext.system.files import write_atomically

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pyproj import CRS

LAYER = "detections"
# Decimals of each field: 0.1 mm, 1e-4 degrees, 1e-4 pixels; scores and angles keep what a float32 has.
DECIMALS = {"score": 7, "length_m": 4, "width_m": 4, "heading_deg": 4, "cx": 4, "cy": 4, "w": 4, "h": 4, "angle": 7}
_DEGREES = 9  # decimals of a longitude: 0.1 mm
_CHUNK = 20_000
_SIDE = 16  # points along each side of a box round a pole


class Written(NamedTuple):
    """The files that were written, and the formats ("GeoJSON", "GeoPackage") that cannot hold what was to be."""

    files: list[Path]
    left_out: list[str]


def write_vectors(folder: Path, stem: str, detections: Detections, georeference: Georeference) -> Written:
    """Write `STEM.geojson`, `STEM.gpkg` and `STEM.parquet`; says which of them.

    One polygon a detection, best first, with `class`, `score`, `length_m` and `width_m` (metres), `heading_deg` (of the long side,
    clockwise from true north, in [0, 180)) and the box in pixels: `cx`, `cy`, `w`, `h`, `angle` (radians, clockwise). GeoJSON
    follows RFC 7946: longitude and latitude to 1e-9 degrees, exterior rings counter-clockwise, what crosses the 180th meridian
    cut into a MultiPolygon. GeoPackage (layer `detections`) and GeoParquet 1.0 are in the raster's own CRS.

    Where the CRS is missing or has no place on the earth (`georeference.located` is false), the three measures are null and no
    GeoJSON is written, which has no other coordinates than longitude and latitude; nor is a GeoPackage where that cannot hold the
    CRS (one with a rotated pole). Each file appears whole or not at all; raises `UserError` where it cannot be written or the
    extra `geo` is missing.
    """
    with extra("geo", "georeferenced results"):
        import pyogrio
    corners, fields = _measured(detections, georeference)
    frame = _frame(detections.names, fields, corners, georeference)

    def write_geopackage(part: Path) -> None:
        # GDAL wants the suffix, and keeps a journal beside the file while it writes.
        with TemporaryDirectory(prefix=".gpkg.", dir=part.parent) as scratch:
            whole = Path(scratch) / f"{LAYER}.gpkg"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "'crs' was not provided")
                pyogrio.write_dataframe(frame, whole, layer=LAYER, driver="GPKG", geometry_type="Polygon")
            whole.replace(part)

    geojson, geopackage, parquet = (folder / f"{stem}.{suffix}" for suffix in ("geojson", "gpkg", "parquet"))
    if georeference.located:
        write_atomically(geojson, lambda part: _write_geojson(part, corners, detections.names, fields, georeference))
    write_atomically(parquet, lambda part: frame.to_parquet(part, index=False, schema_version="1.0.0"))
    if held := _geopackage_holds(georeference.crs):
        write_atomically(geopackage, write_geopackage)
    left_out = ["GeoJSON"] * (not georeference.located) + ["GeoPackage"] * (not held)
    return Written([geojson] * georeference.located + [geopackage] * held + [parquet], left_out)


def _geopackage_holds(crs: "CRS | None") -> bool:
    from pyproj.exceptions import CRSError

    try:
        return crs is None or bool(crs.to_wkt("WKT1_GDAL"))
    except CRSError:
        return False


def detections_frame(detections: Detections, georeference: Georeference) -> "GeoDataFrame":
    """What `write_vectors` writes to GeoParquet, as a table in memory; raises `UserError` where the extra `geo` is missing."""
    corners, fields = _measured(detections, georeference)
    return _frame(detections.names, fields, corners, georeference)


def geojson_text(detections: Detections, georeference: Georeference) -> str:
    """What `write_vectors` writes to GeoJSON; raises `UserError` where `georeference.located` is false or the extra is missing."""
    corners, fields = _measured(detections, georeference)
    return "".join(_geojson(corners, detections.names, fields, georeference))


def _measured(detections: Detections, georeference: Georeference) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Corners `[N, 4, 2]` float64 in pixels, and the numbers of each detection."""
    boxes = detections.boxes.detach().cpu().double()
    corners = boxes_to_corners(boxes).numpy().reshape(-1, 4, 2)
    return corners, _fields(detections, boxes.numpy().reshape(-1, 5), corners, georeference)


def _fields(detections: Detections, boxes: np.ndarray, corners: np.ndarray, georeference: Georeference) -> dict[str, np.ndarray]:
    """The numbers of each detection, `[N]` float64 each in the order of DECIMALS; NaN where nothing is known."""
    unknown = np.full(len(boxes), np.nan)
    measures = georeference.measure(corners) if georeference.located else (unknown, unknown, unknown)
    score = detections.scores.detach().cpu().double().numpy()
    columns = zip(DECIMALS.items(), (score, *measures, *boxes.T), strict=True)
    fields = {name: np.round(values, decimals) + 0.0 for (name, decimals), values in columns}
    fields["heading_deg"] = np.where(fields["heading_deg"] >= 180, 0.0, fields["heading_deg"])
    return fields


def _frame(names: list[str], fields: dict[str, np.ndarray], corners: np.ndarray, georeference: Georeference) -> "GeoDataFrame":
    """A table with one polygon a detection in the raster's CRS, its types the same with and without rows."""
    with extra("geo", "georeferenced results"):
        import geopandas
        import pandas
        import shapely
    ground = georeference.to_ground(corners.reshape(-1, 2)).reshape(-1, 4, 2)
    known = np.isfinite(ground).all((1, 2))
    polygons = np.full(len(ground), None, object)
    polygons[known] = shapely.polygons(close(wind(ground[known])))
    columns = {"class": pandas.array(names, dtype="string"), **fields}
    return geopandas.GeoDataFrame(columns, geometry=polygons, crs=georeference.crs)


def _write_geojson(
    path: Path, corners: np.ndarray, names: list[str], fields: dict[str, np.ndarray], georeference: Georeference
) -> None:
    """Stream the features to a file."""
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(_geojson(corners, names, fields, georeference))


def _geojson(corners: np.ndarray, names: list[str], fields: dict[str, np.ndarray], georeference: Georeference) -> Iterator[str]:
    """The text of a FeatureCollection in pieces, computed a chunk at a time."""
    quoted = {name: json.dumps(name) for name in set(names)}
    keys = [json.dumps(key) for key in fields]
    yield '{"type": "FeatureCollection", "features": ['
    for start in range(0, len(names), _CHUNK):
        part = slice(start, start + _CHUNK)
        numbers = zip(*(values[part].tolist() for values in fields.values()), strict=True)
        geometries = _geometries(corners[part], georeference)
        for at, (name, row, geometry) in enumerate(zip(names[part], numbers, geometries, strict=True), start):
            values = ", ".join(f"{key}: {repr(value) if value == value else 'null'}" for key, value in zip(keys, row, strict=True))
            properties = f'{{"class": {quoted[name]}, {values}}}'
            yield f'{"," if at else ""}\n{{"type": "Feature", "properties": {properties}, "geometry": {geometry}}}'
    yield "\n]}\n"


def _geometries(corners: np.ndarray, georeference: Georeference) -> Iterator[str]:
    """GeoJSON geometries of boxes' corners `[N, 4, 2]` in pixels; null where a corner has no longitude and latitude."""
    lonlat = georeference.to_lonlat(corners.reshape(-1, 2)).reshape(corners.shape)
    if georeference.geographic:
        rings, polar = lonlat, np.zeros(len(lonlat), bool)  # run on past 180 as the raster does
    else:
        rings, polar = unroll(lonlat)
    plain = ~polar & (np.abs(rings) <= (180, 90)).all((1, 2))
    known = np.isfinite(lonlat).all((1, 2))
    closed = close(wind(rings))
    for index in range(len(rings)):
        if plain[index]:
            yield f'{{"type": "Polygon", "coordinates": [{_ring(closed[index])}]}}'
        elif known[index]:
            ring = unroll(georeference.to_lonlat(_dense(corners[index]))[None])[0][0] if polar[index] else rings[index]
            yield _polygons(cut(ring, bool(polar[index])))
        else:
            yield "null"


def _polygons(parts: list[np.ndarray]) -> str:
    """The GeoJSON geometry of closed rings."""
    texts = [f"[{_ring(part)}]" for part in parts]
    if len(texts) == 1:
        return f'{{"type": "Polygon", "coordinates": {texts[0]}}}'
    return f'{{"type": "MultiPolygon", "coordinates": [{", ".join(texts)}]}}' if texts else "null"


def _ring(points: np.ndarray) -> str:
    return "[" + ", ".join(f"[{x:.{_DEGREES}f}, {y:.{_DEGREES}f}]" for x, y in points.tolist()) + "]"


def _dense(corners: np.ndarray) -> np.ndarray:
    """Points `[4 * _SIDE, 2]` along the sides of one box."""
    share = np.arange(_SIDE)[:, None] / _SIDE
    return np.concatenate([a + share * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])
