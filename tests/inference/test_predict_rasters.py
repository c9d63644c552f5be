"""`rotanext predict` on rasters: windows, places on the ground, damage, and memory whatever the size."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from places import SUPPORT
from rotanext.errors import UserError
from rotanext.images.raster import Raster
from rotanext.images.reading import read_image, write_png

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo: pip install 'rotanext[geo]'")

LOW = ("--score", "0.0095", "--draw", "0.0095", "--device", "cpu")
TILES = ("--image-size", "0", "--tile", "64", "--overlap", "16")
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}


def write_raster(path: Path, values: np.ndarray, **profile: Any) -> Path:
    """A GeoTIFF of `[bands, H, W]`."""
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", **({"driver": "GTiff", "count": bands, "width": width, "height": height, "dtype": values.dtype} | profile)
    ) as file:
        file.write(values)
    return path


def noise(bands: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(bands).integers(0, 256, (bands, height, width)).astype(np.uint8)


def records(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {image["name"]: image["detections"] for image in json.loads((out / "detections.json").read_text())["images"]}


def test_a_raster_is_the_image_of_its_pixels(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    values = noise(3, 150, 200)
    write_png(tmp_path / "a.png", np.ascontiguousarray(values.transpose(1, 2, 0)))
    write_raster(tmp_path / "b.tif", values, **UTM, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    for name in ("a.png", "b.tif"):
        done = cli("predict", tmp_path / name, "-w", tiny_weights, "--out", tmp_path / f"out_{name}", *TILES, *LOW)
        assert done.code == 0, done.err
    image, raster = records(tmp_path / "out_a.png")["a"], records(tmp_path / "out_b.tif")["b"]
    assert len(image) > 10
    assert image == raster
    assert "b.tif: band 1, 2, 3 of 3, uint8 as stored" in done.err


def test_places_on_the_ground(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    import geopandas

    write_raster(tmp_path / "a.tif", noise(3, 150, 200), **UTM)
    write_raster(tmp_path / "b.tif", noise(3, 90, 80))
    for name in ("c", "d"):
        write_raster(tmp_path / f"{name}.tif", noise(3, 90, 80), transform=UTM["transform"])
    done = cli("predict", tmp_path / "*.tif", "-w", tiny_weights, "--out", tmp_path / "out", *TILES, *LOW)
    assert done.code == 0, done.err
    written = ["a.geojson", "a.gpkg", "a.parquet", "c.gpkg", "c.parquet", "d.gpkg", "d.parquet"]
    assert sorted(path.name for path in (tmp_path / "out/vectors").iterdir()) == written
    assert done.err.count("a geotransform without CRS") == 1
    assert "c.tif: a geotransform without CRS" in done.err
    boxes = records(tmp_path / "out")["a"]
    frame = geopandas.read_file(tmp_path / "out/vectors/a.gpkg")
    assert frame.crs.to_epsg() == 32633
    assert frame["class"].tolist() == [box["class"] for box in boxes]
    corners = np.stack([np.array(polygon.exterior.coords)[:4] for polygon in frame.geometry])
    pixels = np.stack([(corners[..., 0] - 500_000) / 0.5, (5_000_000 - corners[..., 1]) / 0.5], -1)
    expected = np.array([box["corners"] for box in boxes])
    for found, wanted in zip(pixels, expected, strict=True):
        nearest = np.linalg.norm(found[:, None] - wanted[None], axis=-1).min(1)
        assert nearest.max() < 0.01


def test_bands_stretch_and_classes_that_compete(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    values = noise(4, 64, 64)
    write_raster(tmp_path / "a.tif", values.astype(np.float32) * 10)
    write_png(tmp_path / "b.png", np.ascontiguousarray(values[[3, 0, 2]].transpose(1, 2, 0)))
    done = cli(
        "predict", tmp_path / "a.tif", "-w", tiny_weights, "--out", tmp_path / "a", "--bands", "4,1,3", "--stretch", "0:2550", *LOW
    )
    assert done.code == 0, done.err
    assert "a.tif: band 4, 1, 3 of 4, float32 stretched from 0 to 2550" in done.err
    assert cli("predict", tmp_path / "b.png", "-w", tiny_weights, "--out", tmp_path / "b", *LOW).code == 0
    assert records(tmp_path / "a")["a"] == records(tmp_path / "b")["b"]
    fewer = cli("predict", tmp_path / "b.png", "-w", tiny_weights, "--out", tmp_path / "c", "--across-classes", *LOW)
    assert fewer.code == 0
    assert 0 < len(records(tmp_path / "c")["b"]) < len(records(tmp_path / "b")["b"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--bands", "1,2"), "--bands is '1,2'; expected one or three numbers"),
        (("--bands", "7"), "found no bands 7; expected one or three numbers from 1 to 3"),
        (("--stretch", "bright"), "stretch is 'bright'; expected auto"),
        (("--tile", "0"), "tile"),
        (("--overlap", "64"), "overlap 64 must be smaller than tile 64"),
    ],
)
def test_options_that_make_no_sense(
    option: tuple[str, str], message: str, cli: Callable, tiny_weights: Path, tmp_path: Path
) -> None:
    write_raster(tmp_path / "a.tif", noise(3, 20, 20))
    done = cli("predict", tmp_path / "a.tif", "-w", tiny_weights, "--out", tmp_path / "out", *TILES, *option, *LOW)
    assert done.code == 2
    assert message in done.err


def test_damage_in_the_middle_leaves_the_others(cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in "abc":
        write_raster(folder / f"{name}.tif", noise(3, 300, 200), compress="deflate", tiled=True, blockxsize=16, blockysize=16)
    data = bytearray((folder / "b.tif").read_bytes())
    data[len(data) // 3 : -3000] = bytes(len(data) - 3000 - len(data) // 3)
    (folder / "b.tif").write_bytes(data)
    (folder / "d.jp2").write_bytes(b"\0" * 99)
    (folder / "e.vrt").write_text("<VRTDataset")
    done = cli("predict", folder, "-w", tiny_weights, "--out", tmp_path / "out", *TILES, *LOW)
    assert done.code == 1
    assert sorted(records(tmp_path / "out")) == ["a", "c"]
    assert "Skipped 3 invalid items" in done.err
    assert f"{folder / 'b.tif'}: found a part that cannot be read" in done.err
    assert not (tmp_path / "out/images/b.png").exists()


def test_huge_images_are_read_in_windows(
    cli: Callable, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(tmp_path / "a.png", np.ascontiguousarray(noise(3, 150, 200).transpose(1, 2, 0)))
    assert cli("predict", tmp_path / "a.png", "-w", tiny_weights, "--out", tmp_path / "whole", *TILES, *LOW).code == 0
    monkeypatch.setattr("rotanext.images.scenes.DECODED_AT_ONCE", 1000)
    monkeypatch.setattr("rotanext.inference.predict.DRAWN_SIDE", 100)
    opened: list[object] = []
    plain = Raster.__init__
    monkeypatch.setattr(Raster, "__init__", lambda self, path, *rest: (opened.append(path), plain(self, path, *rest))[1])
    done = cli("predict", tmp_path / "a.png", "-w", tiny_weights, "--out", tmp_path / "windows", *TILES, *LOW)
    assert done.code == 0, done.err
    assert opened == [tmp_path / "a.png"]
    assert records(tmp_path / "windows") == records(tmp_path / "whole")
    assert read_image(tmp_path / "windows/images/a.png").shape[1] >= 100  # drawn shrunk, a legend beside it


def test_without_the_extra_tiffs_are_images(
    cli: Callable, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raster(tmp_path / "a.tif", noise(3, 64, 64), **UTM)
    (tmp_path / "b.jp2").touch()
    monkeypatch.setattr("rotanext.images.scenes.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr("rotanext.system.gdal._loaded", [])
    done = cli("predict", tmp_path / "*.*", "-w", tiny_weights, "--out", tmp_path / "out", *LOW)
    assert done.code == 1
    assert list(records(tmp_path / "out")) == ["a"]
    assert "b.jp2" in done.err or "pip install 'rotanext[geo]'" in done.err


def test_a_full_disk_ends_it_with_what_was_found(
    cli: Callable, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_raster(tmp_path / f"{name}.tif", noise(3, 64, 64), **UTM)
    written: list[str] = []
    from rotanext.geo.vectors import Written

    def write(folder: Path, stem: str, *rest: object) -> Written:
        if written:
            raise UserError(f"{folder / stem}.gpkg: could not be written (No space left on device)")
        written.append(stem)
        return Written([folder / f"{stem}.gpkg"], [])

    monkeypatch.setattr("rotanext.geo.vectors.write_vectors", write)
    done = cli("predict", tmp_path / "*.tif", "-w", tiny_weights, "--out", tmp_path / "out", *LOW)
    assert done.code == 2
    assert "b.gpkg: could not be written (No space left" in done.err
    assert list(records(tmp_path / "out")) == ["a", "b"]


@pytest.mark.parametrize(("side", "dtype"), [(24_000, "uint8"), pytest.param(8_000, "float32", marks=pytest.mark.slow)])
def test_memory_stays_small_whatever_the_size(tiny_weights: Path, tmp_path: Path, side: int, dtype: str) -> None:
    """0.8 to 1.7 GB of pixels, of which blocks here and there hold something."""
    profile = {"driver": "GTiff", "count": 3, "width": side, "height": side, "dtype": dtype, "BIGTIFF": "YES"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "SPARSE_OK": "TRUE"}
    with rasterio.open(tmp_path / "huge.tif", "w", **profile, **UTM) as file:
        for k in range(40):
            window = rasterio.windows.Window(k * side // 42 // 512 * 512, k * side // 64 // 512 * 512, 512, 512)
            file.write(noise(3, 512, 512).astype(dtype), window=window)
    code = (
        "import sys; from process_memory import status; from rotanext.cli.main import main; sys.argv[0] = 'rotanext'\n"
        "try:\n    main()\nfinally:\n    print('torch._dynamo' in sys.modules, status('VmHWM'))"
    )
    arguments = ["predict", str(tmp_path / "huge.tif"), "-w", str(tiny_weights), "--out", str(tmp_path / "out")]
    arguments += ["--image-size", "0", "--tile", "1024", "--overlap", "128", "--score", "0.3", "--device", "cpu"]
    command, here = [sys.executable, "-c", code, *arguments], {**os.environ, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=here)
    assert done.returncode == 0, done.stderr
    compiler, peak = done.stdout.splitlines()[-1].split()
    assert compiler == "False"  # torch's, which is 200 MB and seconds
    assert int(peak) < 1.5e9
    assert read_image(tmp_path / "out/images/huge.jpg").shape[1] >= 4000
