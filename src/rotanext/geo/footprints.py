"""Labels given as footprints on the ground: polygons of a GeoJSON or GeoPackage file, as rectangles in an image's pixels."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rotanext.errors import UserError, explain, extra
from rotanext.geo.georeference import Georeference
from rotanext.objects import Fault, Labelled
from rotanext.polygons import least_rectangle

if TYPE_CHECKING:
    from pyproj import CRS

CLASS_FIELDS = ("class", "class_name", "label", "category", "type")  # not "name": OpenStreetMap's is a proper name
DEFAULT_CLASS = "object"
_LONGEST_NAME = 100
_CORRECT = "Correct or remove the feature."

# Number, properties, and the outlines' points [K, 2] in the file's CRS or what is wrong with them.
Feature = tuple[int, Mapping[str, object], "np.ndarray | Fault"]


def read_footprints(path: Path, image: Path | None) -> Iterator[tuple[int, Labelled | Fault]]:
    """The features of a GeoJSON or GeoPackage file, numbered from 1, as rectangles of least area in the pixels of `image`.

    GeoJSON is longitude and latitude (RFC 7946) unless it has the older `crs` member; a GeoPackage names its CRS, and all of its
    layers are read. One feature is one object, whatever its parts; holes don't count. The outline's corners are taken to pixels,
    sides staying straight there, then the rectangle of least area around them in float64. The class is the first of the
    properties `class`, `class_name`, `label`, `category`, `type` (in any case) that holds text, its spaces turned into
    hyphens as in DOTA's own names; without one it is "object". Nothing is difficult.

    A feature that gives no rectangle (no geometry, a point or a line, no area, coordinates that are no numbers or lie where the
    image's CRS has none) is a `Fault`. Raises `UserError` where the file or the image cannot be read, no path leads from
    one CRS to the other, the image has no place on the ground, or the extra `geo` is missing.
    """
    if image is None:
        found, expected = "footprints without their image", "the image of this name in the folder images beside"
        raise UserError(explain(path, found, expected, "Its georeference turns them into pixels."))
    georeference = Georeference.read(image)
    if georeference is None:
        found, advice = "an image without place on the ground", "Use one with a geotransform, or labels in pixels (NAME.txt)."
        raise UserError(explain(image, found, f"one that the footprints of {path} lie on", advice))
    layers = _read_geopackage(path) if path.suffix.lower() == ".gpkg" else iter([_read_geojson(path)])
    for crs, features in layers:
        to_ground = _to_ground(path, crs, georeference)
        for number, properties, points in features:
            name = _class_name(properties)
            corners = points if isinstance(points, Fault) else _corners(georeference.to_pixels(to_ground(points)))
            if isinstance(corners, Fault):
                yield number, corners
            elif isinstance(name, Fault):
                yield number, name
            else:
                yield number, Labelled([(x, y) for x, y in corners.tolist()], name, 0)


def _corners(points: np.ndarray) -> np.ndarray | Fault:
    """Corners `[4, 2]` float64, clockwise on the screen, of the rectangle of least area around points `[K, 2]` (pixels)."""
    if not np.isfinite(points).all():
        return Fault("coordinates that have no place in the image's coordinate system", "a polygon near the image", _CORRECT)
    found = least_rectangle(points)
    return Fault("an outline that encloses no area", "a polygon", _CORRECT) if found is None else found


def _class_name(properties: Mapping[str, object]) -> str | Fault:
    values: dict[str, object] = {}
    for key, value in properties.items():
        values.setdefault(str(key).lower(), value)
    texts = (values.get(field) for field in CLASS_FIELDS)
    name = next(("-".join(text.split()) for text in texts if isinstance(text, str) and text.strip()), DEFAULT_CLASS)
    if len(name) > _LONGEST_NAME or not name.isprintable():
        expected = f"at most {_LONGEST_NAME} printable characters"
        return Fault(f"the class {name[:20]!r}, {len(name)} characters long", expected, _CORRECT)
    return name


def _to_ground(path: Path, crs: "CRS | None", georeference: Georeference) -> Callable[[np.ndarray], np.ndarray]:
    """From the file's CRS to the image's; raises `UserError` where no path leads there."""
    with extra("geo", str(path)):
        from pyproj import Transformer
        from pyproj.exceptions import ProjError
    if crs == georeference.crs:
        return georeference.nearest_turn
    advice = "Give both the same one, for example with gdal_edit.py -a_srs or ogr2ogr -a_srs."
    if crs is None or georeference.crs is None:
        found, other = ("none", "one") if crs is None else (f"the coordinate system {crs.name!r}", "none")
        raise UserError(explain(path, found, f"that of the image, which has {other}", advice))
    try:
        transformer = Transformer.from_crs(crs, georeference.crs, always_xy=True)
    except ProjError as error:
        found = f"the coordinate system {crs.name!r} ({error})"
        raise UserError(explain(path, found, f"one that leads to {georeference.crs.name!r}", advice)) from error

    def transform(points: np.ndarray) -> np.ndarray:
        return georeference.nearest_turn(np.stack(transformer.transform(points[:, 0], points[:, 1]), 1))

    return transform


def _read_geojson(path: Path) -> tuple["CRS", Iterator[Feature]]:
    """The CRS and the features of a GeoJSON file.

    Not GDAL's reader, which takes a `crs` member that it cannot resolve for longitude and latitude without a word.
    """
    expected = "a GeoJSON FeatureCollection"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        found = f"that it cannot be read ({error.strerror})"
        raise UserError(explain(path, found, expected, "Check the path and its permissions.")) from error
    except (ValueError, RecursionError) as error:
        raise UserError(explain(path, f"a file that is no JSON ({error})", expected, "Write it again.")) from error
    kind = content.get("type") if isinstance(content, dict) else type(content).__name__
    features = [content] if kind == "Feature" else content.get("features") if kind == "FeatureCollection" else None
    if not isinstance(features, list):
        found = f"JSON of the type {kind!r}" if kind != "FeatureCollection" else "no list of features"
        raise UserError(explain(path, found, expected, "Write it again as one."))
    return _geojson_crs(path, content.get("crs")), _geojson_features(features)


def _geojson_crs(path: Path, member: Any) -> "CRS":
    with extra("geo", str(path)):
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    if member is None:
        return CRS.from_epsg(4326)
    try:
        return CRS.from_user_input(str(member["properties"]["name"])).to_2d()
    except (CRSError, TypeError, KeyError, IndexError, ValueError) as error:
        expected = "a known name, such as urn:ogc:def:crs:EPSG::32616, or none"
        found = f"the crs member {json.dumps(member)[:80]}"
        raise UserError(explain(path, found, expected, "Write the file again in EPSG:4326.")) from error


def _geojson_features(features: list[Any]) -> Iterator[Feature]:
    for number, feature in enumerate(features, 1):
        feature = feature if isinstance(feature, dict) else {}
        properties, geometry = feature.get("properties"), feature.get("geometry")
        yield number, properties if isinstance(properties, dict) else {}, _geojson_points(geometry)


def _geojson_points(geometry: Any) -> np.ndarray | Fault:
    if not isinstance(geometry, dict):
        return _not_a_polygon("no geometry")
    kind, polygons = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        return _not_a_polygon(f"a geometry of the type {str(kind)[:30]!r}")
    try:
        parts: Any = [polygons] if kind == "Polygon" else polygons
        outlines = [polygon[0] for polygon in parts if polygon]
        points = [(float(point[0]), float(point[1])) for outline in outlines for point in outline]
    except (TypeError, ValueError, LookupError, OverflowError):
        return Fault("coordinates that are no numbers", "rings of [x, y]", _CORRECT)
    return _checked(np.array(points, np.float64).reshape(-1, 2))


def _read_geopackage(path: Path) -> Iterator[tuple["CRS | None", Iterator[Feature]]]:
    """CRS and features of each layer that has geometries; the numbers go on from layer to layer."""
    with extra("geo", str(path)):
        import pyogrio
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    start = 1
    try:
        for layer, kind in pyogrio.list_layers(path):
            if kind is None:
                continue
            fields = [name for name in pyogrio.read_info(path, layer=layer)["fields"] if name.lower() in CLASS_FIELDS]
            meta, _, geometries, columns = pyogrio.raw.read(path, layer=layer, columns=fields)
            crs = CRS.from_user_input(meta["crs"]).to_2d() if meta["crs"] else None
            yield crs, _geopackage_features(geometries, dict(zip(meta["fields"], columns, strict=True)), start)
            start += len(geometries)
    except (RuntimeError, ValueError, OSError, CRSError) as error:  # pyogrio's own errors are RuntimeErrors
        raise UserError(explain(path, f"that it cannot be read ({error})", "a GeoPackage", "Write it again.")) from error


def _geopackage_features(geometries: np.ndarray, columns: Mapping[str, np.ndarray], start: int) -> Iterator[Feature]:
    with extra("geo", "a GeoPackage"):
        import shapely
    for row, binary in enumerate(geometries):
        with np.errstate(invalid="ignore"):  # from NaN coordinates
            geometry = None if binary is None else shapely.from_wkb(binary, on_invalid="ignore")
        points: np.ndarray | Fault = _not_a_polygon("no geometry")
        if geometry is not None and geometry.geom_type in ("Polygon", "MultiPolygon"):
            outlines = [shapely.get_coordinates(part.exterior) for part in shapely.get_parts(geometry)]
            points = _checked(np.concatenate([np.zeros((0, 2)), *outlines]))
        elif geometry is not None:
            points = _not_a_polygon(f"a geometry of the type {geometry.geom_type!r}")
        yield start + row, {name: column[row] for name, column in columns.items()}, points


def _checked(points: np.ndarray) -> np.ndarray | Fault:
    if not len(points):
        return _not_a_polygon("an empty polygon")
    return points if np.isfinite(points).all() else Fault("coordinates that are not finite", "numbers", _CORRECT)


def _not_a_polygon(found: str) -> Fault:
    return Fault(found, "a polygon", _CORRECT)
