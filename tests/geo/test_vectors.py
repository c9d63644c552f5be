import json
import math
import re
import sys
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet
import pyogrio
import pyproj
import pytest
import shapely
import shapely.affinity
import torch

from rotanext.detections import Detections
from rotanext.errors import UserError
from rotanext.geo.georeference import Georeference
from rotanext.geo.mapping import Affine
from rotanext.geo.vectors import write_vectors

NAMES = ("plane", "ship")
FIELDS = ["class", "score", "length_m", "width_m", "heading_deg", "cx", "cy", "w", "h", "angle"]


def affine(code: int | None, matrix: list[list[float]], x: float, y: float) -> Georeference:
    crs = None if code is None else pyproj.CRS.from_epsg(code)
    return Georeference(crs, Affine(np.array(matrix, np.float64), np.array([x, y], np.float64)), (1000, 1000))


def north_up(code: int | None, x: float, y: float, pixel: float) -> Georeference:
    return affine(code, [[pixel, 0], [0, -pixel]], x, y)


def detections(count: int, names: tuple[str, ...] = NAMES) -> Detections:
    boxes = torch.rand(count, 5) * torch.tensor([900.0, 900, 60, 20, 3]) + torch.tensor([50.0, 50, 30, 5, -1.5])
    scores = torch.rand(count).sort(descending=True).values
    return Detections(boxes, scores, torch.randint(0, len(names), (count,)), names)


def one(cx: float, cy: float, w: float, h: float, angle: float = 0.0) -> Detections:
    return Detections(torch.tensor([[cx, cy, w, h, angle]]), torch.tensor([0.5]), torch.tensor([0]), NAMES)


def check_rfc7946(path: Path) -> list[dict]:
    """The features of a GeoJSON file, every member of which is as RFC 7946 wants it; section numbers beside."""

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    content = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    assert set(content) == {"type", "features"}  # 3.3; 4: no crs
    assert content["type"] == "FeatureCollection"
    for feature in content["features"]:
        assert set(feature) == {"type", "properties", "geometry"}  # 3.2
        assert feature["type"] == "Feature"
        assert list(feature["properties"]) == FIELDS
        assert all(isinstance(value, float | None) for key, value in feature["properties"].items() if key != "class")
        geometry = feature["geometry"]
        if geometry is None:
            continue
        assert set(geometry) == {"type", "coordinates"}  # 3.1
        assert geometry["type"] in ("Polygon", "MultiPolygon")
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        assert geometry["type"] == "Polygon" or len(polygons) > 1
        for polygon in polygons:
            assert len(polygon) == 1  # no holes
            ring = np.array(polygon[0])
            assert ring.ndim == 2
            assert ring.shape[1] == 2  # 3.1.1: no further elements
            assert len(ring) >= 4  # 3.1.6
            assert (ring[0] == ring[-1]).all()
            assert shapely.is_ccw(shapely.linearrings(ring))  # the right-hand rule
            assert (np.abs(ring) <= (180, 90)).all()
    return content["features"]


def read_all(paths: list[Path]) -> dict[str, geopandas.GeoDataFrame]:
    return {path.suffix: geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path) for path in paths}


PLACES = {
    "UTM": north_up(32616, 733601, 3725139, 0.05),
    "rotated and sheared": affine(32633, [[0.4, 0.31], [0.2, -0.45]], 5e5, 5e6),
    "south-up": affine(32756, [[0.5, 0], [0, 0.5]], 334000, 6252000),
    "Mercator": north_up(3857, -8843764, 4848553, 0.3),
    "degrees": north_up(4326, 13.4, 52.5, 5e-7),
    "polar": north_up(3413, -500000, -900000, 10),
    "feet": north_up(2263, 985000, 210000, 0.5),
}


@pytest.mark.parametrize("name", PLACES)
def test_all_three_read_back_to_pixels(tmp_path: Path, name: str) -> None:
    georeference, found = PLACES[name], detections(200)
    paths, left_out = write_vectors(tmp_path, "scene", found, georeference)
    assert not left_out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.geojson", "scene.gpkg", "scene.parquet"]
    assert paths == [tmp_path / f"scene.{suffix}" for suffix in ("geojson", "gpkg", "parquet")]
    check_rfc7946(paths[0])
    frames = read_all(paths)
    code = georeference.crs.to_epsg()
    assert [frame.crs.to_epsg() for frame in frames.values()] == [4326, code, code]
    wanted = found.corners.double().numpy()
    for frame in frames.values():
        assert list(frame.columns) == [*FIELDS, "geometry"]
        assert frame["class"].tolist() == found.names
        np.testing.assert_allclose(frame[["cx", "cy", "w", "h", "angle"]], found.boxes.numpy(), rtol=0, atol=6e-5)
        np.testing.assert_allclose(frame["score"], found.scores.numpy(), rtol=0, atol=1e-7)
        points = shapely.get_coordinates(frame.to_crs(code).geometry.values).reshape(-1, 5, 2)[:, :4]
        pixels = georeference.to_pixels(points.reshape(-1, 2)).reshape(-1, 4, 2)
        distance = np.linalg.norm(pixels[:, :, None] - wanted[:, None], axis=-1)  # corners may start anywhere
        assert max(distance.min(1).max(), distance.min(2).max()) < 0.01


def test_fields_are_the_measures_and_the_same_everywhere(tmp_path: Path) -> None:
    georeference, found = PLACES["UTM"], detections(50)
    frames = read_all(write_vectors(tmp_path, "scene", found, georeference).files)
    length, width, heading = georeference.measure(found.corners.numpy())
    for frame in frames.values():
        np.testing.assert_allclose(frame["length_m"], length, rtol=0, atol=1e-4)
        np.testing.assert_allclose(frame["width_m"], width, rtol=0, atol=1e-4)
        np.testing.assert_allclose(frame["heading_deg"], heading, rtol=0, atol=2e-3)
        assert (frame[FIELDS].astype(object) == frames[".gpkg"][FIELDS].astype(object)).all(axis=None)


def test_a_heading_rounds_to_0_not_180(tmp_path: Path) -> None:
    found = one(500, 400, 100, 40, -math.pi / 2 - 1e-7)
    for frame in read_all(write_vectors(tmp_path, "scene", found, north_up(32633, 5e5 - 250, 5e6, 0.5)).files).values():
        assert frame["heading_deg"].tolist() == [0]


@pytest.mark.parametrize("name", ["UTM", "degrees"])
def test_no_detections(tmp_path: Path, name: str) -> None:
    some = write_vectors(tmp_path, "some", detections(3), PLACES[name]).files
    none = write_vectors(tmp_path, "none", detections(0), PLACES[name]).files
    assert json.loads(none[0].read_text()) == {"type": "FeatureCollection", "features": []}
    for frame in read_all(none).values():
        assert isinstance(frame, geopandas.GeoDataFrame)
        assert len(frame) == 0
    assert geopandas.read_file(none[0]).crs.to_epsg() == 4326
    keys = ("fields", "ogr_types", "crs", "geometry_type", "geometry_name")
    assert [str(pyogrio.read_info(none[1])[key]) for key in keys] == [str(pyogrio.read_info(some[1])[key]) for key in keys]
    schemas = [pyarrow.parquet.read_schema(path) for path in (none[2], some[2])]
    assert schemas[0].equals(schemas[1])
    assert geopandas.read_parquet(none[2]).crs == geopandas.read_parquet(some[2]).crs


def test_geoparquet_metadata(tmp_path: Path) -> None:
    path = write_vectors(tmp_path, "scene", detections(3), PLACES["UTM"]).files[2]
    geo = json.loads(pyarrow.parquet.read_schema(path).metadata[b"geo"])
    assert re.fullmatch(r"1\.\d+\.\d+", geo["version"])
    assert geo["primary_column"] == "geometry"
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert pyproj.CRS.from_json_dict(column["crs"]).to_epsg() == 32616


HOSTILE = (
    'a "quoted" name', "back\\slash", "naïve 船 🚢", "two\nlines\ttab", "'; DROP TABLE detections; --", "</script>", "NaN", " ", "",
)  # fmt: skip


def test_hostile_class_names(tmp_path: Path) -> None:
    found = Detections(torch.rand(9, 5) * 50 + 50, torch.rand(9), torch.arange(9), HOSTILE)
    paths = write_vectors(tmp_path, "a 'scene' – 船", found, PLACES["UTM"]).files
    assert [feature["properties"]["class"] for feature in check_rfc7946(paths[0])] == list(HOSTILE)
    for frame in read_all(paths).values():
        assert frame["class"].tolist() == list(HOSTILE)


@pytest.mark.parametrize("wkt", [None, 'LOCAL_CS["plant",UNIT["metre",1]]'], ids=["no CRS", "a local CRS"])
@pytest.mark.filterwarnings("error")
def test_without_place_on_the_earth(tmp_path: Path, wkt: str | None) -> None:
    crs = pyproj.CRS.from_wkt(wkt) if wkt else None
    georeference = Georeference(crs, PLACES["UTM"].mapping, (1000, 1000))
    paths, left_out = write_vectors(tmp_path, "scene", detections(3), georeference)
    assert [path.name for path in paths] == ["scene.gpkg", "scene.parquet"]
    assert left_out == ["GeoJSON"]
    assert sorted(tmp_path.iterdir()) == paths
    for frame in read_all(paths).values():
        assert frame[["length_m", "width_m", "heading_deg"]].isna().all(axis=None)
        assert frame[["score", "cx"]].notna().all(axis=None)
        assert frame.total_bounds[0] > 733601
    assert geopandas.read_parquet(paths[1]).crs == crs


WEST_OF_180 = pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform(179.999, -17.0)
CROSSING = {
    "UTM": north_up(32660, WEST_OF_180[0], WEST_OF_180[1] + 250, 0.5),
    "polar": north_up(3995, -250, 2e6 + 250, 0.5),  # the Arctic with 180 upwards
    "degrees past 180": north_up(4326, 179.999, -17 + 0.0025, 5e-6),
    "degrees below -180": north_up(4326, -180.001, -17 + 0.0025, 5e-6),
    "degrees past 540": north_up(4326, 539.999, -17 + 0.0025, 5e-6),
}


@pytest.mark.parametrize("name", CROSSING)
def test_boxes_across_the_180th_meridian(tmp_path: Path, name: str) -> None:
    georeference = CROSSING[name]
    found = one(500, 500, 900, 200, 0.2)
    feature = check_rfc7946(write_vectors(tmp_path, "scene", found, georeference).files[0])[0]
    assert feature["geometry"]["type"] == "MultiPolygon"
    west, east = sorted((shapely.Polygon(part[0]) for part in feature["geometry"]["coordinates"]), key=lambda p: -p.bounds[0])
    assert west.bounds[2] == 180
    assert east.bounds[0] == -180
    assert max(np.ptp(part.exterior.xy[0]) for part in (west, east)) < 0.03
    whole = shapely.union(west, shapely.affinity.translate(east, 360))
    lonlat = georeference.to_lonlat(found.corners[0].double().numpy())
    lonlat[:, 0] %= 360
    assert whole.symmetric_difference(shapely.Polygon(lonlat)).area < 1e-6 * whole.area


def test_a_box_that_touches_the_180th_meridian_stays_whole(tmp_path: Path) -> None:
    for start in (179.5, -180):
        feature = check_rfc7946(
            write_vectors(tmp_path, "scene", one(500, 500, 1000, 200), north_up(4326, start, 1, 5e-4)).files[0]
        )[0]
        assert feature["geometry"]["type"] == "Polygon"
        assert len(feature["geometry"]["coordinates"][0]) == 5


def test_a_rotated_pole_is_left_out_of_geopackage(tmp_path: Path) -> None:
    crs = pyproj.CRS("+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=18 +ellps=WGS84")
    paths, left_out = write_vectors(tmp_path, "scene", detections(3), Georeference(crs, PLACES["UTM"].mapping, (1000, 1000)))
    assert "GeoPackage" in left_out
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert tmp_path / "scene.gpkg" not in paths


def test_a_wide_box_of_the_whole_world_is_not_turned_inside_out(tmp_path: Path) -> None:
    feature = check_rfc7946(write_vectors(tmp_path, "scene", one(500, 250, 900, 400), north_up(4326, -180, 90, 0.36)).files[0])[0]
    assert shapely.Polygon(feature["geometry"]["coordinates"][0]).bounds == pytest.approx((-162, -72, 162, 72))


def test_a_box_over_the_top_of_the_world_ends_at_the_pole(tmp_path: Path) -> None:
    feature = check_rfc7946(write_vectors(tmp_path, "scene", one(500, 0, 100, 100), north_up(4326, -180, 90, 0.36)).files[0])[0]
    assert shapely.Polygon(feature["geometry"]["coordinates"][0]).bounds == pytest.approx((-18, 72, 18, 90))


@pytest.mark.parametrize(("code", "pole"), [(3413, 90), (3031, -90)])
def test_a_box_round_a_pole(tmp_path: Path, code: int, pole: int) -> None:
    georeference = north_up(code, -500, 500, 1)
    feature = check_rfc7946(write_vectors(tmp_path, "scene", one(510, 480, 300, 200, 0.4), georeference).files[0])[0]
    cap = shapely.union_all([shapely.Polygon(part) for part in _outlines(feature["geometry"])])
    lon, lat = np.meshgrid(np.arange(-179.5, 180, 7), pole - np.sign(pole) * np.array([1e-7, 2e-4, 5e-4, 1e-3, 1.5e-3, 2e-3]))
    ground = pyproj.Transformer.from_crs(4326, code, always_xy=True).transform(lon.ravel(), lat.ravel())
    pixels = georeference.to_pixels(np.stack(ground, 1))
    box = shapely.Polygon(one(510, 480, 300, 200, 0.4).corners[0].double().numpy())
    wanted = shapely.contains_xy(box, *pixels.T)
    near = shapely.distance(box.exterior, shapely.points(pixels)) < 2  # sides bend between their points
    assert wanted.any()
    assert not wanted.all()
    assert (shapely.contains_xy(cap, lon.ravel(), lat.ravel()) == wanted)[~near].all()


def _outlines(geometry: dict) -> list:
    return [geometry["coordinates"][0]] if geometry["type"] == "Polygon" else [part[0] for part in geometry["coordinates"]]


def test_a_box_without_place_keeps_its_row(tmp_path: Path) -> None:
    far = one(500, 500, 900, 200)
    georeference = north_up(32633, 1e9, 1e9, 0.5)  # where UTM has no longitude
    paths = write_vectors(tmp_path, "scene", far, georeference).files
    feature = check_rfc7946(paths[0])[0]
    assert feature["geometry"] is None
    assert feature["properties"]["length_m"] is None
    assert all(frame["cx"].tolist() == [500] for frame in read_all(paths).values())


@pytest.mark.parametrize("suffix", ["gpkg", "parquet", "geojson"])
def test_a_failure_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    write_vectors(tmp_path, "scene", detections(5), PLACES["UTM"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments: object, **_: object) -> None:
        target = next(Path(argument) for argument in arguments if isinstance(argument, str | Path))
        target.write_bytes(b"half")
        target.with_name(f"{target.name}-journal").touch()
        raise pyogrio.errors.DataLayerError("disk is full")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyogrio, "write_dataframe", full if suffix == "gpkg" else pyogrio.write_dataframe)
    if suffix == "parquet":
        monkeypatch.setattr(geopandas.GeoDataFrame, "to_parquet", lambda self, path, **_: (path.write_bytes(b"half"), no_space()))
    if suffix == "geojson":
        monkeypatch.setattr("rotanext.geo.vectors._geometries", no_space)
    with pytest.raises(UserError, match=rf"scene\.{suffix}: could not be written .*(full|No space)"):
        write_vectors(tmp_path, "scene", detections(9), PLACES["UTM"])
    assert {path.name for path in tmp_path.iterdir()} == set(before)
    assert (tmp_path / f"scene.{suffix}").read_bytes() == before[f"scene.{suffix}"]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written"):
        write_vectors(tmp_path / "file", "scene", detections(1), PLACES["UTM"])


@pytest.mark.parametrize("module", ["geopandas", "pyogrio", "shapely"])
def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module} cannot be imported.*pip install 'rotanext\[geo\]'"):
        write_vectors(tmp_path, "scene", detections(1), PLACES["UTM"])
    assert not list(tmp_path.iterdir())
