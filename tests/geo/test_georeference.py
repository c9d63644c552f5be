import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine as Geotransform

import rotanext
from gcps import CORNERS, GRID, SIZE, curved, oblique, plane
from rotanext.errors import UserError
from rotanext.geo.georeference import Georeference
from rotanext.geo.mapping import Affine, Projective, Spline, round_trip

SOURCE = Path(rotanext.__file__).parent
UTM33 = 32633


def write(path: Path, width: int = 40, height: int = 30, **profile: object) -> Path:
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8", **profile) as raster:
        raster.write(np.zeros((1, height, width), np.uint8))
    return path


def affine(code: int | None, a: float, b: float, c: float, d: float, e: float, f: float) -> Georeference:
    """A georeference of 1000 x 800 pixels by its geotransform in GDAL's and rasterio's order of affine coefficients."""
    crs = None if code is None else pyproj.CRS.from_epsg(code)
    return Georeference(crs, Affine(np.array([[a, b], [d, e]]), np.array([c, f])), (1000, 800))


def north_up(code: int | None, x: float, y: float, pixel: float) -> Georeference:
    return affine(code, pixel, 0, x, 0, -pixel, y)


def box(cx: float, cy: float, w: float, h: float, degrees: float = 0) -> np.ndarray:
    """Corners [1, 4, 2] of a box turned clockwise on the screen."""
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ matrix.T + (cx, cy))[None]


SHARED = {
    # file: EPSG code, known place on the earth, the ground coordinates of the pixel corner (2, 3)
    "sample_geotiff.tif": (32616, True, (733602.0, 3725137.5)),
    "RGB.byte.tif": (32618, True, (102585.075853, 2826014.874652)),
    "cog_world.tif": (4326, True, (-179.98, 89.97)),
    "cog_cmap.tif": (3857, True, (-8843761.783938, 4848549.9952)),
    "cog_int16.tif": (32621, True, (373385.022535, 8285714.966197)),  # its AREA_OR_POINT=Point is GDAL's to undo
    "rotated.tif": (None, False, (100 + 2 * 300**0.5 + 15, 220 - 3 * 75**0.5)),
    "float_nan.tif": (None, False, (200, 300)),
}


@pytest.mark.parametrize("name", SHARED)
def test_real_rasters(shared: Path, name: str) -> None:
    code, located, ground = SHARED[name]
    found = Georeference.read(shared / "data/geo" / name)
    assert found is not None
    assert (found.crs.to_epsg() if found.crs else None) == code
    assert found.located == located
    np.testing.assert_allclose(found.to_ground(np.array([[2, 3]])), [ground], rtol=0, atol=1e-6)


ABSENT = {
    "nothing": {},
    "a CRS alone": {"crs": "EPSG:32633"},
    "the identity": {"crs": "EPSG:32633", "transform": Geotransform(1, 0, 0, 0, 1, 0)},
    "no area": {"crs": "EPSG:32633", "transform": Geotransform(1, 2, 500000, 2, 4, 5e6)},
    "two GCPs": {"crs": "EPSG:4326", "gcps": [GroundControlPoint(0, 0, 9, 50), GroundControlPoint(9, 9, 10, 49)]},
    "GCPs on a line": {"crs": "EPSG:4326", "gcps": [GroundControlPoint(i, i, 9 + i, 50 - i) for i in range(5)]},
    "GCPs in one place": {"crs": "EPSG:4326", "gcps": [GroundControlPoint(5, 5, 9 + i, 50 - i**2) for i in range(5)]},
}


@pytest.mark.parametrize("name", ABSENT)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_without_place(tmp_path: Path, name: str) -> None:
    assert Georeference.read(write(tmp_path / "a.tif", **ABSENT[name])) is None


def test_reading_is_silent_and_says_what_is_wrong(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "plain.png"), np.zeros((4, 4), np.uint8))
    assert Georeference.read(tmp_path / "plain.png") is None
    assert not recwarn.list
    with pytest.raises(UserError, match=r"none\.tif: found that it cannot be opened"):
        Georeference.read(tmp_path / "none.tif")


def test_a_world_file_counts(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n101\n199\n")  # a world file places the middle of the first pixel
    found = Georeference.read(tmp_path / "a.png")
    assert found is not None
    assert found.crs is None
    assert found.to_ground(np.array([[0.5, 0.5]])).tolist() == [[101, 199]]


CODES = {
    # CRS: a place there, metres or degrees a pixel
    32616: (733601, 3725139, 0.05),
    32756: (334000, 6252000, 0.3),  # south
    3857: (-8843764, 4848553, 0.3),
    4326: (13.4, 52.5, 1e-6),
    3413: (-500000, -900000, 10),  # polar
    2263: (985000, 210000, 0.5),  # New York, feet
    27572: (600000, 2430000, 0.2),  # France, grads from Paris
    4807: (2.5, 54.0, 1e-6),  # itself in grads
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("seed", range(3))
def test_round_trips(code: int, seed: int) -> None:
    x, y, pixel = CODES[code]
    rng = np.random.default_rng([seed, code])
    turn, shear = rng.uniform(-np.pi, np.pi), rng.uniform(-0.5, 0.5)
    flip = np.diag([pixel, rng.choice([-1, 1]) * pixel * rng.uniform(0.5, 2)])  # north-up and south-up, pixels no squares
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, shear], [0, 1]] @ flip
    georeference = affine(code, *matrix[0], x, *matrix[1], y)
    pixels = rng.uniform(-100, 20000, (500, 2))
    ground = georeference.to_ground(pixels)
    (a, b), (d, e) = matrix
    np.testing.assert_allclose(ground, [(a * i + b * j + x, d * i + e * j + y) for i, j in pixels], rtol=1e-13)
    assert np.abs(georeference.to_pixels(ground) - pixels).max() < 1e-4 * 0.01  # float64 of 5e6 m at 5 cm pixels: 2e-8
    written = np.round(georeference.to_lonlat(pixels), 9)  # as GeoJSON holds it
    back = pyproj.Transformer.from_crs(4326, code, always_xy=True).transform(*written.T)
    assert np.linalg.norm(georeference.to_pixels(np.stack(back, 1)) - pixels, axis=1).max() < 0.01


def test_pixels_count_from_the_outer_corner(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", crs="EPSG:32633", transform=Geotransform(2, 0.5, 5e5, 0.25, -2, 5e6))
    georeference = Georeference.read(path)
    assert georeference is not None
    with rasterio.open(path) as dataset:
        for row, column in ((0, 0), (7, 11)):
            assert tuple(georeference.to_ground(np.array([[column, row]]))[0]) == dataset.xy(row, column, offset="ul")
            assert tuple(georeference.to_ground(np.array([[column + 0.5, row + 0.5]]))[0]) == dataset.xy(row, column)


A, E2 = 6378137.0, 0.0066943799901413165  # WGS 84


def east(latitude: float) -> float:
    """Metres of a degree of longitude."""
    sine, cosine = np.sin(np.deg2rad(latitude)), np.cos(np.deg2rad(latitude))
    return float(np.pi / 180 * A * cosine / np.sqrt(1 - E2 * sine**2))


def north(latitude: float, a: float = A, e2: float = E2) -> float:
    """Metres of a degree of latitude."""
    return float(np.pi / 180 * a * (1 - e2) / (1 - e2 * np.sin(np.deg2rad(latitude)) ** 2) ** 1.5)


MIDDLE = (500, 400)
MERIDIAN_33 = north_up(UTM33, 5e5 - 250, 5e6 + 200, 0.5)  # its middle on the central meridian, where the scale is 0.9996
SOUTH_56 = north_up(32756, 5e5 - 250, 6e6 + 200, 0.5)
TURN = np.deg2rad(30)
# +x of the image runs to the azimuth 60, +y to 150
ROTATED = affine(UTM33, 0.5 * np.cos(TURN), 0.5 * np.sin(TURN), 5e5, 0.5 * np.sin(TURN), -0.5 * np.cos(TURN), 5e6)
MEASURED = {
    # georeference, width, height and turn of a box in pixels, its length and width in metres and heading
    "east": (MERIDIAN_33, (100, 40, 0), (50 / 0.9996, 20 / 0.9996, 90)),
    "north": (MERIDIAN_33, (100, 40, 90), (50 / 0.9996, 20 / 0.9996, 0)),
    "north, from the other side": (MERIDIAN_33, (100, 40, -90), (50 / 0.9996, 20 / 0.9996, 0)),
    "down to the right is south-east": (MERIDIAN_33, (100, 40, 30), (50 / 0.9996, 20 / 0.9996, 120)),
    "up to the right is north-east": (MERIDIAN_33, (100, 40, -60), (50 / 0.9996, 20 / 0.9996, 30)),
    "a square keeps its own long side": (MERIDIAN_33, (40, 40, 20), (20 / 0.9996, 20 / 0.9996, 110)),
    "the southern hemisphere": (SOUTH_56, (100, 40, 30), (50 / 0.9996, 20 / 0.9996, 120)),
    "south-up": (affine(UTM33, 0.5, 0, 5e5 - 250, 0, 0.5, 5e6), (100, 40, 30), (50 / 0.9996, 20 / 0.9996, 60)),
    "a rotated geotransform": (ROTATED, (100, 40, 0), (50 / 0.9996, 20 / 0.9996, 60)),
    "a rotated geotransform and box": (ROTATED, (100, 40, 45), (50 / 0.9996, 20 / 0.9996, 105)),
    "degrees at 60 north: the long side turns": (
        north_up(4326, 10 - 500e-4, 60 + 400e-4, 1e-4), (100, 60, 0), (60e-4 * north(60), 100e-4 * east(60), 0)
    ),
    "Mercator at 60 north: half as long": (
        north_up(3857, -500, 8399737.89 + 400, 1), (100, 40, 0),
        (100 / A * 180 / np.pi * east(60), 40 * np.cos(np.pi / 3) * north(60) * 180 / np.pi / A, 90),
    ),
    "grads, on the ellipsoid of Clarke 1880": (
        north_up(4807, 1 - 500e-4, 54 + 400e-4, 1e-4), (40, 100, 0),
        (0.009 * north(48.6, 6378249.2, 1 - (6356515 / 6378249.2) ** 2), None, 0),
    ),
    "polar, on its own meridian": (north_up(3413, -500, -1e6 + 400, 1), (100, 40, 90), (None, None, 0)),
    "polar, a quarter of the globe on": (north_up(3413, 1e6 - 500, 400, 1), (100, 40, 90), (None, None, 90)),
    "feet": (north_up(2263, 984250 - 500, 209974 + 400, 1), (100, 40, 0), (100 * 0.3048, 40 * 0.3048, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_measures_by_hand(name: str) -> None:
    georeference, size, expected = MEASURED[name]
    found = georeference.measure(box(*MIDDLE, *size))
    for value, wanted, tolerance in zip(found, expected, (2e-4, 2e-4, 0.01), strict=True):
        if wanted == 0:  # or just below 180
            assert min(value[0], 180 - value[0]) < tolerance
        elif wanted is not None:
            assert value[0] == pytest.approx(wanted, rel=tolerance if wanted == expected[2] else 1e-4, abs=0.0)


@pytest.mark.parametrize(("longitude", "latitude"), [(17.5, 50), (12.5, 50), (17.5, -50), (12.6, 10)])
def test_convergence_of_the_meridians(longitude: float, latitude: float) -> None:
    code = UTM33 if latitude > 0 else 32733
    x, y = pyproj.Transformer.from_crs(4326, code, always_xy=True).transform(longitude, latitude)
    convergence = np.rad2deg(np.arctan(np.tan(np.deg2rad(longitude - 15)) * np.sin(np.deg2rad(latitude))))
    assert abs(convergence) > 0.4
    heading = north_up(code, x - 250, y + 200, 0.5).measure(box(*MIDDLE, 100, 40, 0))[2]
    assert heading[0] == pytest.approx(90 + convergence, abs=0.005)


def test_headings_stay_below_180() -> None:
    turns = np.concatenate([np.linspace(-90, 90, 721), 90 + np.linspace(-1e-9, 1e-9, 41)])
    corners = np.concatenate([box(*MIDDLE, 100, 40, degrees) for degrees in turns])
    length, width, heading = MERIDIAN_33.measure(corners)
    assert ((heading >= 0) & (heading < 180)).all()
    assert (length >= width).all()
    assert [len(values) for values in MERIDIAN_33.measure(np.zeros((0, 4, 2)))] == [0, 0, 0]


UNKNOWN = {
    "no CRS": (None, "no coordinate system"),
    "a local CRS": ('LOCAL_CS["plant",UNIT["metre",1]]', "the local coordinate system 'plant'"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_places_that_are_not_on_the_earth(name: str) -> None:
    wkt, message = UNKNOWN[name]
    crs = pyproj.CRS.from_wkt(wkt) if wkt else None
    georeference = Georeference(crs, MERIDIAN_33.mapping, (10, 10))
    assert not georeference.located
    assert np.isfinite(georeference.to_ground(np.zeros((1, 2)))).all()
    for method in (lambda: georeference.to_lonlat(np.zeros((1, 2))), lambda: georeference.measure(box(5, 5, 4, 2))):
        with pytest.raises(UserError, match=message):
            method()


@pytest.mark.parametrize(("code", "tolerance"), [(4326, 1e-9), (4322, 1e-3)], ids=["WGS 84", "WGS 72, a shift away"])
def test_longitudes_run_on_past_180(code: int, tolerance: float) -> None:
    georeference = north_up(code, 179.95, -17, 1e-4)
    longitudes = georeference.to_lonlat(np.array([[0.0, 0], [1000, 0]]))[:, 0]
    np.testing.assert_allclose(longitudes, [179.95, 180.05], rtol=0, atol=tolerance)
    np.testing.assert_allclose(georeference.nearest_turn(np.array([[-179.95, -17.0], [179.95, -17]]))[:, 0], [180.05, 179.95])


FITTED = {
    # pixels of the GCPs, the truth, the mapping expected, its largest miss at the GCPs, the largest error between them (pixels)
    "three on a plane": (CORNERS[:3], plane, Affine, 1e-6, 1e-6),
    "a grid on a plane": (GRID, plane, Affine, 1e-6, 1e-6),
    "measured to a tenth of a metre": (GRID, lambda pixels: plane(pixels) + 0.1 * np.sin(37 * pixels), Affine, 0.3, 0.4),
    "four of an oblique image": (CORNERS, oblique, Projective, 1e-6, 1e-5),
    "a grid of an oblique image": (GRID, oblique, Projective, 1e-6, 1e-5),
    "a curved image": (GRID, curved, Spline, 1e-6, 2.0),
    "several at one pixel": (np.concatenate([GRID, GRID[:5]]), curved, Spline, 1e-6, 2.0),
}


@pytest.mark.parametrize("name", FITTED)
def test_gcps_written_and_read(tmp_path: Path, name: str) -> None:
    pixels, truth, kind, miss, error = FITTED[name]
    gcps = [GroundControlPoint(row=y, col=x, x=e, y=n) for (x, y), (e, n) in zip(pixels, truth(pixels), strict=True)]
    georeference = Georeference.read(write(tmp_path / "a.tif", *SIZE, crs="EPSG:32633", gcps=gcps))
    assert georeference is not None
    assert georeference.crs.to_epsg() == UTM33
    assert isinstance(georeference.mapping, kind)
    assert georeference.residual <= miss
    assert round_trip(georeference.mapping, SIZE) < 0.01
    assert np.linalg.norm(georeference.to_pixels(truth(pixels)) - pixels, axis=1).max() <= miss
    inside = np.random.default_rng(0).uniform(0, SIZE, (2000, 2))
    assert np.linalg.norm(georeference.to_pixels(truth(inside)) - inside, axis=1).max() <= error
    assert np.linalg.norm(georeference.to_pixels(georeference.to_ground(inside)) - inside, axis=1).max() < 1e-5


def test_gcps_across_the_180th_meridian(tmp_path: Path) -> None:
    gcps = [GroundControlPoint(y, x, (179.9 + x * 4e-4 + 180) % 360 - 180, -17 - y * 4e-4) for x, y in CORNERS]
    georeference = Georeference.read(write(tmp_path / "a.tif", *SIZE, crs="EPSG:4326", gcps=gcps))
    assert georeference is not None
    assert georeference.residual < 1e-6
    np.testing.assert_allclose(georeference.to_lonlat(np.array([[400.0, 300]])), [[180.06, -17.12]])


@pytest.mark.parametrize("module", ["rasterio", "pyproj"])
def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    path = write(tmp_path / "a.tif", crs="EPSG:32633", transform=Geotransform(1, 0, 5e5, 0, -1, 5e6))
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("rotanext.system.gdal._loaded", [])
    with pytest.raises(UserError, match=rf"{module} cannot be imported.*pip install 'rotanext\[geo\]'"):
        Georeference.read(path)


EXTRA = {"rasterio", "pyproj", "shapely", "geopandas", "pandas", "pyogrio", "pyarrow"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_module_needs_the_extra_to_be_imported(path: Path) -> None:
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & EXTRA


def test_splitting_runs_without_the_extra() -> None:
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRA)}))"
    subprocess.run([sys.executable, "-c", f"{block}; import rotanext.data.split, rotanext.geo.footprints"], check=True)
