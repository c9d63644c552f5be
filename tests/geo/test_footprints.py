import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import geopandas
import numpy as np
import pandas
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
import torch
from rasterio.transform import Affine as Geotransform

from rotanext.boxes import boxes_to_corners, corners_to_boxes
from rotanext.data.dota import inside, list_items, read_objects
from rotanext.data.index import read_dataset, read_entries
from rotanext.data.split import split_dataset
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError
from rotanext.evaluation.metrics import dota_map
from rotanext.geo.georeference import Georeference
from rotanext.geo.vectors import write_vectors
from rotanext.objects import Objects
from rotanext.polygons import least_rectangle

X, Y, PIXEL = 500000.0, 5000000.0, 0.5


def raster_file(path: Path, code: int | None = 32633, transform: Geotransform | None = None) -> Path:
    """An image of 200 x 160 pixels of half a metre, its corner at X, Y."""
    transform = transform or Geotransform(PIXEL, 0, X, 0, -PIXEL, Y)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"crs": f"EPSG:{code}" if code else None, "transform": transform, "photometric": "RGB"}
    with rasterio.open(path, "w", driver="GTiff", width=200, height=160, count=3, dtype="uint8", **profile) as raster:
        raster.write(np.random.default_rng(0).integers(0, 255, (3, 160, 200)).astype(np.uint8))
    return path


def ring(*pixels: tuple[float, float]) -> list[list[float]]:
    """A closed ring on the ground of pixels of `raster_file`."""
    return [[X + x * PIXEL, Y - y * PIXEL] for x, y in (*pixels, pixels[0])]


def feature(geometry: object, **properties: object) -> dict:
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def polygon(*pixels: tuple[float, float]) -> dict:
    return {"type": "Polygon", "coordinates": [ring(*pixels)]}


UTM = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
SQUARE = polygon((10, 10), (50, 10), (50, 40), (10, 40))


def geojson(path: Path, *features: object, **members: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": UTM, **members, "features": features}))
    return path


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference of coordinates between two rectangles [4, 2], whose corners start anywhere and run either way."""
    orders = [np.roll(found[::step], start, 0) for step in (1, -1) for start in range(4)]
    return min(float(np.abs(order - wanted).max()) for order in orders)


@pytest.fixture
def buildings(shared: Path) -> tuple[Objects, Objects]:
    """43 buildings as their polygons give them, and as the reference's text does."""
    folder = shared / "data/geo"
    strict = Problems(strict=True)
    polygons = read_objects(folder / "geotiff_labels.geojson", strict, image=folder / "sample_geotiff.tif")
    return inside(polygons, 900, 900, strict, "polygons"), read_objects(folder / "sample_geotiff.txt", strict)


def test_43_buildings_both_ways(buildings: tuple[Objects, Objects], shared: Path) -> None:
    found, text = buildings
    assert len(found) == len(text) == 43
    # The text holds OpenCV's rectangles, computed in float32 and rounded to 0.01 pixels: its own float32 copies show it exactly.
    folder = shared / "data/geo"
    georeference = Georeference.read(folder / "sample_geotiff.tif")
    assert georeference is not None
    features = json.loads((folder / "geotiff_labels.geojson").read_text())["features"]
    for corners, wanted, item in zip(found.corners, text.corners, features, strict=True):
        outline = georeference.to_pixels(np.array(item["geometry"]["coordinates"][0]))
        single = cv2.boxPoints(cv2.minAreaRect(outline.astype(np.float32))).astype(np.float64)
        assert apart(np.round(single, 2), wanted) < 1e-9
        assert apart(corners, single) < 2e-4  # float32 at 900 has steps of 6e-5
        assert apart(corners, wanted) < 0.005 + 2e-4
    ours, theirs = (corners_to_boxes(torch.from_numpy(objects.corners)) for objects in (found, text))
    turn = torch.rad2deg((ours - theirs)[:, 4].abs())
    assert torch.minimum(turn, 180 - turn).max() < 0.017  # 0.0165 at the smallest building, 8.6 x 8.4 pixels


def test_43_buildings_in_any_file(buildings: tuple[Objects, Objects], shared: Path, tmp_path: Path) -> None:
    source, image = shared / "data/geo/geotiff_labels.geojson", shared / "data/geo/sample_geotiff.tif"
    frame = geopandas.read_file(source)[["geometry"]]
    frame.to_crs(4326).to_file(tmp_path / "rfc.geojson", driver="GeoJSON", RFC7946="YES", COORDINATE_PRECISION=11)
    frame.to_file(tmp_path / "utm.gpkg")
    frame.to_crs(3857).to_file(tmp_path / "mercator.gpkg")
    for name in ("rfc.geojson", "utm.gpkg", "mercator.gpkg"):
        again = read_objects(tmp_path / name, Problems(strict=True), image=image)
        assert len(again) == 43
        assert set(again.names) == {"object"}
        assert max(map(apart, again.corners, buildings[0].corners)) < 1e-4


@pytest.mark.parametrize("suffix", ["geojson", "gpkg"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    image = raster_file(tmp_path / "a.tif", transform=Geotransform(0.4, 0.31, X, 0.2, -0.45, Y))
    boxes = torch.rand(60, 5) * torch.tensor([180.0, 140, 30, 10, 3]) + torch.tensor([10.0, 10, 16, 4, -1.5])
    found = Detections(boxes, torch.rand(60), torch.arange(60) % 2, ("plane", "storage tank"))
    georeference = Georeference.read(image)
    assert georeference is not None
    write_vectors(tmp_path, "a", found, georeference)
    objects = read_objects(tmp_path / f"a.{suffix}", Problems(strict=True), image=image)
    assert objects.names == ["plane", "storage-tank"] * 30
    assert objects.corners.dtype == np.float64
    assert objects.difficult.tolist() == [0] * 60
    assert max(map(apart, objects.corners, boxes_to_corners(boxes.double()).numpy())) < 0.01


@pytest.mark.parametrize("offset", [0.0, 1e7])
@pytest.mark.parametrize("count", [3, 4, 7, 40, 3000])
def test_least_rectangles(count: int, offset: float) -> None:
    rng = np.random.default_rng([count, int(offset)])
    for _ in range(5):
        points = rng.normal(size=(count, 2)) @ rng.normal(size=(2, 2)) * 30
        if count == 3000:
            points /= np.linalg.norm(points, axis=1, keepdims=True) / 50  # all on the hull
        corners = least_rectangle(points + offset)
        assert isinstance(corners, np.ndarray)
        corners -= offset
        sides = np.diff(corners, axis=0, append=corners[:1])
        lengths = np.linalg.norm(sides, axis=1)
        tolerance = 1e-6 if offset else 1e-9
        np.testing.assert_allclose(sides[0], -sides[2], atol=tolerance)
        assert abs(sides[0] @ sides[1]) < tolerance * lengths.max() * 4
        assert sides[0, 0] * sides[1, 1] - sides[0, 1] * sides[1, 0] > 0  # clockwise on the screen
        for start, side, length in zip(corners, sides, lengths, strict=True):  # all points inside, one on each side
            across = ((points - start) @ [-side[1], side[0]]) / length
            assert abs(across.min()) < tolerance * 4
        turns = np.linspace(0, np.pi / 2, 2001)
        axes = np.stack([np.cos(turns), np.sin(turns)], 1), np.stack([-np.sin(turns), np.cos(turns)], 1)
        swept = np.prod([np.ptp(points @ axis.T, axis=0) for axis in axes], 0).min()
        assert lengths[0] * lengths[1] <= swept * (1 + 1e-9)
        if count <= 40 and not offset:
            least = shapely.minimum_rotated_rectangle(shapely.multipoints(points)).area
            assert lengths[0] * lengths[1] <= least * (1 + 1e-9)


FINE = {
    # geometry, corners in pixels
    "a square": (SQUARE, [(10, 10), (50, 10), (50, 40), (10, 40)]),
    "clockwise": (polygon((10, 40), (50, 40), (50, 10), (10, 10)), [(10, 10), (50, 10), (50, 40), (10, 40)]),
    "with height": (
        {"type": "Polygon", "coordinates": [[[*point, 7.5] for point in SQUARE["coordinates"][0]]]},
        [(10, 10), (50, 10), (50, 40), (10, 40)],
    ),
    "a hole": (
        {"type": "Polygon", "coordinates": [SQUARE["coordinates"][0], ring((20, 20), (30, 20), (30, 30))]},
        [(10, 10), (50, 10), (50, 40), (10, 40)],
    ),
    "two parts are one object": (
        {"type": "MultiPolygon", "coordinates": [[ring((0, 0), (5, 0), (5, 10), (0, 10))], [ring((20, 0), (40, 0), (40, 10))]]},
        [(0, 0), (40, 0), (40, 10), (0, 10)],
    ),
    "an L": (polygon((0, 0), (20, 0), (20, 5), (5, 5), (5, 8), (0, 8)), [(0, 0), (20, 0), (20, 8), (0, 8)]),
    "not closed": ({"type": "Polygon", "coordinates": [SQUARE["coordinates"][0][:-1]]}, [(10, 10), (50, 10), (50, 40), (10, 40)]),
    "a bow": (polygon((0, 0), (20, 10), (20, 0), (0, 10)), [(0, 0), (20, 0), (20, 10), (0, 10)]),
    "across the edge": (polygon((-20, -5), (20, -5), (20, 8), (-20, 8)), [(-20, -5), (20, -5), (20, 8), (-20, 8)]),
    "a diamond": (polygon((50, 0), (90, 40), (70, 60), (30, 20)), [(50, 0), (90, 40), (70, 60), (30, 20)]),
}


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("suffix", ["geojson", "gpkg"])
def test_polygons(tmp_path: Path, name: str, suffix: str) -> None:
    geometry, corners = FINE[name]
    path = geojson(tmp_path / "a.geojson", feature(geometry, label="shed"))
    if suffix == "gpkg":
        if name == "not closed":
            return  # no such thing in a GeoPackage
        path = tmp_path / "a.gpkg"
        geopandas.read_file(tmp_path / "a.geojson").to_file(path)
    objects = read_objects(path, Problems(strict=True), image=raster_file(tmp_path / "a.tif"))
    assert objects.names == ["shed"]
    assert apart(objects.corners[0], np.array(corners, np.float64)) < 1e-6


INVALID = {
    # a feature, what the message says
    "no geometry": (feature(None), "found in feature 2 no geometry; expected a polygon"),
    "no feature": (5, "no geometry"),
    "a point": (feature({"type": "Point", "coordinates": [X, Y]}), "type 'Point'"),
    "a line": (feature({"type": "LineString", "coordinates": ring((0, 0), (9, 9))}), "type 'LineString'"),
    "a collection": (feature({"type": "GeometryCollection", "geometries": [SQUARE]}), "type 'GeometryCollection'"),
    "an unknown type": (feature({"type": ["x"] * 99, "coordinates": 1}), "geometry of the type"),
    "empty": (feature({"type": "Polygon", "coordinates": []}), "an empty polygon"),
    "empty parts": (feature({"type": "MultiPolygon", "coordinates": [[], [[]]]}), "an empty polygon"),
    "no coordinates": (feature({"type": "Polygon"}), "an empty polygon"),
    "coordinates of another kind": (feature({"type": "MultiPolygon", "coordinates": 7}), "no numbers"),
    "words": (feature({"type": "Polygon", "coordinates": [[["a", "b"], [1, 2]]]}), "no numbers"),
    "null": (feature({"type": "Polygon", "coordinates": [[[None, 1], [1, 2]]]}), "no numbers"),
    "one number": (feature({"type": "Polygon", "coordinates": [[[1], [2]]]}), "no numbers"),
    "an object": (feature({"type": "Polygon", "coordinates": {"x": 1}}), "no numbers"),
    "a huge integer": (feature({"type": "Polygon", "coordinates": [[[10**400, 1], [1, 2]]]}), "no numbers"),
    "NaN": (feature({"type": "Polygon", "coordinates": [[[float("nan"), 1], [1, 2], [3, 4]]]}), "not finite"),
    "infinity": (feature({"type": "Polygon", "coordinates": [[[float("inf"), 1], [1, 2], [3, 4]]]}), "not finite"),
    "a flat one": (feature(polygon((0, 0), (10, 10), (20, 20))), "encloses? no area"),
    "one place": (feature(polygon((5, 5), (5, 5), (5, 5))), "encloses? no area"),
    "next to nothing": (feature(polygon((5, 5), (5.01, 5), (5.01, 5.01)), type="shed"), "encloses? no area"),
    "again": (feature(SQUARE, type="shed"), "the object of feature 1 again; expected each object once. Remove the feature"),
    "another class": (feature(polygon((0, 0), (9, 0), (9, 9)), label="shad"), "'shad'.*Did you mean shed"),
    "a long class": (feature(polygon((0, 0), (9, 0), (9, 9)), label="x" * 101), "101 characters"),
    "a bell in the class": (feature(polygon((0, 0), (9, 0), (9, 9)), label="a\x07b"), "printable"),
}


@pytest.mark.parametrize("name", INVALID)
def test_features_that_are_no_objects(tmp_path: Path, name: str) -> None:
    item, message = INVALID[name]
    good = [feature(SQUARE, type="shed"), feature(polygon((60, 60), (90, 60), (90, 90)), type="shed")]
    path, image = geojson(tmp_path / "a.geojson", good[0], item, good[1]), raster_file(tmp_path / "a.tif")
    problems = Problems()
    assert len(read_objects(path, problems, ("shed",), image)) == 2
    assert problems.count == 1
    with pytest.raises(UserError, match=rf"a\.geojson: found in feature 2 .*{message}|a\.geojson: .*{message}"):
        read_objects(path, Problems(strict=True), ("shed",), image)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_geopackage_features_that_are_no_objects(tmp_path: Path) -> None:
    good = shapely.from_geojson(json.dumps(SQUARE))
    bad = [
        None,
        shapely.Point(X, Y),
        shapely.Polygon(),
        shapely.LineString([(X, Y), (X + 9, Y)]),
        shapely.Polygon([(0, 0), (np.nan, 1), (1, 1), (0, 0)]),
    ]
    frame = geopandas.GeoDataFrame({"class": ["shed"] * 6}, geometry=[*bad, good], crs=32633)
    frame.to_file(tmp_path / "a.gpkg", layer="one")
    second = geopandas.GeoDataFrame({"category": ["tree"] * 2}, geometry=[good, shapely.Point(X, Y)], crs=32633)
    second.to_file(tmp_path / "a.gpkg", layer="two")
    pyogrio.write_dataframe(pandas.DataFrame({"label": ["no geometry at all"]}), tmp_path / "a.gpkg", layer="three")
    problems = Problems(keep=9)
    objects = read_objects(tmp_path / "a.gpkg", problems, image=raster_file(tmp_path / "a.tif"))
    assert objects.names == ["shed", "tree"]
    assert [message.split("found in feature ")[1][:2] for message in problems.first] == ["1 ", "2 ", "3 ", "4 ", "5 ", "8 "]


CLASSES = {
    # properties, class
    "class first": ({"name": "x", "type": "y", "class": "ship"}, "ship"),
    "class_name": ({"label": "x", "class_name": "ship"}, "ship"),
    "label": ({"category": "x", "label": "ship"}, "ship"),
    "category": ({"type": "x", "category": "ship"}, "ship"),
    "type": ({"name": "x", "type": "ship"}, "ship"),
    "a name is no class": ({"name": "Occlusion", "building": "yes"}, "object"),
    "capitals": ({"Class": "ship"}, "ship"),
    "empty text": ({"class": "", "label": "  ", "type": "ship"}, "ship"),
    "null, numbers and lists": ({"class": None, "label": 3, "category": ["a"], "type": {"b": 1}, "name": True}, "object"),
    "none": ({}, "object"),
    "spaces": ({"class": " storage \n tank\u00a0big "}, "storage-tank-big"),
    "quotes": ({"class": "a \"b\" 'c'; DROP TABLE x"}, "a-\"b\"-'c';-DROP-TABLE-x"),
    "unicode": ({"class": "船🚢"}, "船🚢"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes(tmp_path: Path, name: str) -> None:
    properties, expected = CLASSES[name]
    path = geojson(tmp_path / "a.geojson", feature(SQUARE, **properties))
    assert read_objects(path, Problems(strict=True), image=raster_file(tmp_path / "a.tif")).names == [expected]


BROKEN = {
    # the file's text, what the message says
    "nothing": ("", "no JSON"),
    "cut off": ('{"type": "FeatureCollection", "features": [', "no JSON"),
    "binary": ("\x00\x01", "no JSON"),
    "deep": ("[" * 200_000, "no JSON"),
    "a list": ("[1]", "type 'list'"),
    "a topology": ('{"type": "Topology"}', "type 'Topology'"),
    "no list": ('{"type": "FeatureCollection", "features": 3}', "no list of features"),
    "an unknown CRS": (
        '{"type": "FeatureCollection", "crs": {"properties": {"name": "EPSG:999999"}}, "features": []}',
        "EPSG:999999",
    ),
    "a linked CRS": (
        '{"type": "FeatureCollection", "crs": {"type": "link", "properties": {"href": "x"}}, "features": []}',
        "crs member",
    ),
    "a CRS of its own": ('{"type": "FeatureCollection", "crs": [], "features": []}', "crs member"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    text, message = BROKEN[name]
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(UserError, match=rf"a\.geojson: found .*{message}"):
        read_objects(tmp_path / "a.geojson", Problems(), image=raster_file(tmp_path / "a.tif"))


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_other_files_and_images_that_do_not_do(tmp_path: Path) -> None:
    labels, image = geojson(tmp_path / "a.geojson", feature(SQUARE)), raster_file(tmp_path / "a.tif")
    (tmp_path / "b.gpkg").write_bytes(b"no database")
    cv2.imwrite(str(tmp_path / "plain.png"), np.zeros((9, 9), np.uint8))
    geopandas.GeoDataFrame(geometry=[shapely.box(X, Y - 9, X + 9, Y)]).to_file(tmp_path / "none.gpkg")
    cases: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "b.gpkg", image, r"b\.gpkg: found that it cannot be read"),
        (tmp_path / "missing.gpkg", image, r"missing\.gpkg: found that it cannot be read"),
        (tmp_path / "missing.geojson", image, r"missing\.geojson: found that it cannot be read"),
        (labels, None, r"a\.geojson: found footprints without their image"),
        (labels, tmp_path / "plain.png", r"plain\.png: found an image without place on the ground"),
        (labels, tmp_path / "missing.tif", r"missing\.tif: found that it cannot be opened"),
        (labels, raster_file(tmp_path / "nocrs.tif", None), r"a\.geojson: found the coordinate system 'WGS 84 .*which has none"),
        (tmp_path / "none.gpkg", image, r"none\.gpkg: found none; expected that of the image, which has one"),
    ]
    for path, of, message in cases:
        with pytest.raises(UserError, match=message):
            read_objects(path, Problems(), image=of)
    # Both without CRS: the same units are all that can be meant.
    assert len(read_objects(tmp_path / "none.gpkg", Problems(strict=True), image=tmp_path / "nocrs.tif")) == 1


def test_one_feature_and_no_feature(tmp_path: Path) -> None:
    image = raster_file(tmp_path / "a.tif")
    (tmp_path / "one.geojson").write_text(json.dumps({**feature(SQUARE), "crs": UTM}))
    assert len(read_objects(tmp_path / "one.geojson", Problems(strict=True), image=image)) == 1
    none = read_objects(geojson(tmp_path / "none.geojson"), Problems(strict=True), image=image)
    assert none.corners.shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("corner", "code"), [((179.99, -17.0), 4326), ((-180.01, -17.0), 4326), ((179.99, -17.0), 4322), (None, 32660)]
)
def test_a_footprint_cut_at_the_180th_meridian(tmp_path: Path, corner: tuple[float, float] | None, code: int) -> None:
    west = corner or pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform(179.99, -17)
    pixel = 1e-4 if corner else 10
    image = raster_file(tmp_path / "a.tif", code, Geotransform(pixel, 0, west[0], 0, -pixel, west[1]))
    boxes = torch.tensor([[100.0, 80, 60, 20, 0.3]])
    georeference = Georeference.read(image)
    assert georeference is not None
    path = write_vectors(
        tmp_path, "a", Detections(boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64), ("ship",)), georeference
    ).files[0]
    assert json.loads(path.read_text())["features"][0]["geometry"]["type"] == "MultiPolygon"
    objects = read_objects(path, Problems(strict=True), image=image)
    assert apart(objects.corners[0], boxes_to_corners(boxes.double())[0].numpy()) < 0.01


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with labels of all three kinds: a (GeoJSON: shed, tree, one outside), b (GeoPackage: shed), c (text: ship)."""
    root = tmp_path / "data"
    for name in "abc":
        raster_file(root / f"images/{name}.tif")
    outside = feature(polygon((300, 300), (340, 300), (340, 330), (300, 330)), label="far")
    tree = feature(polygon((150, 100), (220, 100), (220, 120), (150, 120)), label="tree")
    geojson(root / "labelTxt/a.geojson", feature(SQUARE, label="shed"), tree, outside)
    geojson(tmp_path / "b.geojson", feature(SQUARE, label="shed"))
    geopandas.read_file(tmp_path / "b.geojson").to_file(root / "labelTxt/b.gpkg")
    (root / "labelTxt/c.txt").write_text("10 10 50 10 50 40 10 40 ship 0\n")
    return root


def test_a_folder_of_all_kinds(folder: Path) -> None:
    items = list_items(folder, Problems(strict=True))
    assert [item.label.name for item in items if item.label] == ["a.geojson", "b.gpkg", "c.txt"]
    names = read_dataset([folder], "auto", Problems())[0]
    assert names == ("far", "shed", "ship", "tree")
    problems = Problems()
    entries = read_entries([str(folder)], names, problems)
    assert [entry.objects.names for entry in entries] == [["shed", "tree"], ["shed"], ["ship"]]
    assert problems.count == 1
    assert "a far at x 300..340" in problems.first[0]
    for entry in entries:
        assert apart(entry.objects.corners[0], np.array([(10, 10), (50, 10), (50, 40), (10, 40)], np.float64)) < 1e-6


def test_splitting_a_folder_of_all_kinds(folder: Path, tmp_path: Path) -> None:
    problems = Problems()
    report = split_dataset(folder, tmp_path / "tiles", size=100, overlap=20, problems=problems, progress=False)
    assert (report.images, problems.count) == (3, 1)
    tiles = [read_objects(tmp_path / f"tiles/labelTxt/{name}__100__0___0.txt", Problems(strict=True)) for name in "abc"]
    assert [tile.names for tile in tiles] == [["shed"], ["shed"], ["ship"]]


def test_evaluating_a_folder_of_all_kinds(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "task1").mkdir()
    for name, stems in {"shed": "ab", "ship": "c"}.items():
        lines = [f"{stem} 0.9 10 10 50 10 50 40 10 40\n" for stem in stems]
        (tmp_path / f"task1/Task1_{name}.txt").write_text("".join(lines))
    report = dota_map(tmp_path / "task1", folder)
    assert report.class_names == ("far", "shed", "ship", "tree")
    assert [(row.name, row.npos, row.tp, row.fp) for row in report.at(0.5)] == [
        ("far", 1, 0, 0),
        ("shed", 2, 2, 0),
        ("ship", 1, 1, 0),
        ("tree", 1, 0, 0),
    ]


def test_two_label_files_and_no_image(folder: Path) -> None:
    (folder / "labelTxt/a.txt").write_text("")
    geojson(folder / "labelTxt/c.geojson", feature(SQUARE, label="late"))
    geojson(folder / "labelTxt/d.geojson", feature(SQUARE, label="lost"))
    problems = Problems()
    items = list_items(folder, problems)
    assert [item.label.name for item in items if item.label] == ["a.txt", "b.gpkg", "c.txt"]
    assert problems.count == 3
    assert "a.geojson: found a second label file beside a.txt; expected one" in problems.first[0]
    assert "d.geojson: found no image for this label file" in problems.first[2]
    assert read_dataset([folder], "auto", Problems())[0] == ("shed", "ship")


@pytest.mark.parametrize("module", ["rasterio", "pyproj", "shapely", "pyogrio"])
def test_a_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable, module: str, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("rotanext.system.gdal._loaded", [])
    with pytest.raises(UserError, match=rf"{module} cannot be imported.*pip install 'rotanext\[geo\]'"):
        read_objects(folder / "labelTxt/b.gpkg", Problems(), image=folder / "images/b.tif")
    for name in ("labelTxt/a.geojson", "labelTxt/c.txt", "images/a.tif", "images/c.tif"):
        (folder / name).unlink()
    done = cli("split", folder, tmp_path / "tiles", "--strict")
    assert done.code == 2
    assert "pip install 'rotanext[geo]'" in " ".join(done.err.split())
