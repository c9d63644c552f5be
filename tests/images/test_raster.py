"""Rasters in windows: bands, palettes, masks, types, stretches; the same pixels as training reads; damage."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rotanext.errors import UserError
from rotanext.images.raster import Raster, RasterOptions, Stretch, parse_stretch, raster_options
from rotanext.images.reading import read_image

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo: pip install 'rotanext[geo]'")
RNG = np.random.default_rng(0)
Values = np.ndarray


def write(path: Path, values: Values, **profile: Any) -> Path:
    """A raster of `[bands, H, W]`."""
    bands, height, width = values.shape
    colours = profile.pop("colours", None)
    palette, mask = profile.pop("palette", None), profile.pop("mask", None)
    settings = {"driver": "GTiff", "count": bands, "width": width, "height": height, "dtype": values.dtype} | profile
    with rasterio.open(path, "w", **settings) as file:
        if colours is not None:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
        if palette is not None:
            file.write_colormap(1, palette)  # before the values, or it ends up in a file of its own
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
    return path


def read_whole(path: Path, options: RasterOptions = RasterOptions()) -> tuple[np.ndarray, np.ndarray | None, str]:  # noqa: B008
    with Raster(path, options) as raster:
        return *raster.read(0, 0, raster.width, raster.height), raster.how


def noise(bands: int, dtype: str = "uint8", high: int = 256) -> Values:
    return RNG.integers(0, high, (bands, 40, 50)).astype(dtype)


@pytest.mark.parametrize(
    ("values", "profile"),
    [
        (noise(3), {}),
        (noise(3), {"compress": "deflate", "predictor": 2, "tiled": True, "blockxsize": 16, "blockysize": 16}),
        (noise(3), {"interleave": "band"}),
        (noise(1), {}),
        (noise(4), {"colours": ["red", "green", "blue", "alpha"], "photometric": "RGB"}),
        (noise(3, "uint16", 65536), {"photometric": "RGB"}),
        (noise(1, "uint16", 65536), {}),
        (noise(3), {"nodata": 0}),
        (noise(3), {"BIGTIFF": "YES"}),
    ],
    ids=["plain", "tiled and deflated", "planar", "grey", "alpha", "16 bit", "16 bit grey", "nodata", "bigtiff"],
)
def test_pixels_are_those_that_training_reads(tmp_path: Path, values: Values, profile: dict[str, Any]) -> None:
    path = write(tmp_path / "a.tif", values, **profile)
    np.testing.assert_array_equal(read_whole(path)[0], read_image(path))


def test_windows_are_parts_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(3))
    whole, valid, _ = read_whole(path)
    assert valid is None
    with Raster(path) as raster:
        for x, y, width, height in ((0, 0, 1, 1), (7, 3, 20, 30), (49, 39, 1, 1)):
            np.testing.assert_array_equal(raster.read(x, y, width, height)[0], whole[y : y + height, x : x + width])


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(1, high=3), palette={0: (1, 2, 3, 255), 1: (40, 50, 60, 255), 2: (200, 0, 9, 255)})
    image, _, how = read_whole(path)
    assert {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()} == {(1, 2, 3), (40, 50, 60), (200, 0, 9)}
    np.testing.assert_array_equal(image, read_image(path))
    assert how.startswith("palette")


def test_bands_are_chosen(tmp_path: Path) -> None:
    values = noise(5)
    path = write(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_whole(path)[0], values[:3].transpose(1, 2, 0))
    image, _, how = read_whole(path, RasterOptions((5, 1, 3)))
    np.testing.assert_array_equal(image, values[[4, 0, 2]].transpose(1, 2, 0))
    assert how == "band 5, 1, 3 of 5, uint8 as stored"
    np.testing.assert_array_equal(read_whole(path, RasterOptions((4,)))[0], values[[3, 3, 3]].transpose(1, 2, 0))
    two = write(tmp_path / "b.tif", values[:2])
    np.testing.assert_array_equal(read_whole(two)[0], values[[0, 0, 0]].transpose(1, 2, 0))
    for wrong in ((6,), (0, 1, 2), (1, 2)):
        with pytest.raises(UserError, match=r"a\.tif: found no bands .*; expected one or three numbers from 1 to 5"):
            Raster(path, RasterOptions(wrong))


def test_masks_say_where_data_are(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[10:, 5:] = 255
    cases = {
        "mask": write(tmp_path / "a.tif", noise(3), mask=mask),
        "nodata": write(tmp_path / "b.tif", np.where(mask, noise(3).clip(1), 0).astype(np.uint8), nodata=0),
        "alpha": write(tmp_path / "c.tif", np.concatenate([noise(3), mask[None]]), colours=["red", "green", "blue", "alpha"]),
        "NaN": write(tmp_path / "d.tif", np.where(mask, noise(1), np.nan).astype(np.float32)),
        "infinity": write(tmp_path / "e.tif", np.where(mask, noise(1), np.inf).astype(np.float64)),
    }
    for name, path in cases.items():
        _, valid, _ = read_whole(path)
        assert valid is not None, name
        np.testing.assert_array_equal(valid, mask > 0, err_msg=name)
        with Raster(path) as raster:
            assert raster.read(5, 10, 45, 30)[1] is None, name


@pytest.mark.parametrize(
    ("values", "stretch", "expected", "how"),
    [
        ([0, 32767, 65535], "auto", [0, 127, 255], "0 to 65535, the whole range of uint16"),
        ([0, 500, 1000, 2000], "0:1000", [0, 128, 255, 255], "0 to 1000"),
        ([0, 500, 1000, 2000], "500:1500", [0, 0, 128, 255], "500 to 1500"),
    ],
)
def test_fixed_stretches(tmp_path: Path, values: list[int], stretch: str, expected: list[int], how: str) -> None:
    path = write(tmp_path / "a.tif", np.array([[values]], np.uint16))
    image, _, said = read_whole(path, RasterOptions(stretch=stretch))
    assert image[0, :, 0].tolist() == expected
    assert said == f"band 1 of 1, uint16 stretched from {how}"


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64", "int32", "uint32"])
def test_percentiles_leave_out_what_is_no_data(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(100, 200, 2000).reshape(1, 40, 50).astype(dtype)
    values[0, :10] = 9999
    path = write(tmp_path / "a.tif", values, nodata=9999)
    image, _, how = read_whole(path)
    kept = values[0, 10:].astype(np.float64)
    low, high = np.percentile(kept, [2, 98])
    expected = ((kept - low) / (high - low) * 255).round().clip(0, 255)
    np.testing.assert_allclose(image[10:, :, 0], expected, atol=1)
    assert f"{low:g} to {high:g} (percentiles 2 and 98 of a sample)" in how


def test_percentiles_of_a_large_raster_come_from_blocks_all_over(tmp_path: Path) -> None:
    values = np.broadcast_to(np.arange(5000, dtype=np.float32), (1, 4200, 5000))
    with Raster(write(tmp_path / "a.tif", values), RasterOptions(stretch="10%:90%")) as raster:
        low, high = (float(part) for part in raster.how.split("from ")[1].split(" (")[0].split(" to "))
    assert low == pytest.approx(500, abs=5000 / 16)  # sixteen blocks a row
    assert high == pytest.approx(4500, abs=5000 / 16)


def test_one_bit(tmp_path: Path) -> None:
    values = noise(1, high=2)
    assert set(np.unique(read_whole(write(tmp_path / "a.tif", values, nbits=1))[0])) == {0, 255}


def test_a_raster_without_any_data(tmp_path: Path) -> None:
    image, valid, _ = read_whole(write(tmp_path / "a.tif", np.full((1, 8, 8), np.nan, np.float32)))
    assert valid is not None
    assert not valid.any()
    assert image.max() == 0


@pytest.mark.parametrize("text", ["", "a", "1", "5:1", "1:1", "0%:200%", "10%:5", "nan:1", "0:inf", "1:2:3", "-5%:50%"])
def test_stretches_that_mean_nothing(text: str) -> None:
    with pytest.raises(UserError, match="expected auto, full, LOW:HIGH"):
        parse_stretch(text)


@pytest.mark.parametrize(("bands", "expected"), [(None, None), ("2", (2,)), ("4,3,2", (4, 3, 2)), (" 1, 1,1", (1, 1, 1))])
def test_options_from_texts(bands: str | None, expected: tuple[int, ...] | None) -> None:
    assert raster_options(bands, "1%:99%") == RasterOptions(expected, "1%:99%")


@pytest.mark.parametrize("bands", ["", "1,2", "a", "1,2,x", "0,1,2", "-1", "1.5"])
def test_bands_that_mean_nothing(bands: str) -> None:
    with pytest.raises(UserError, match="--bands is"):
        raster_options(bands, "auto")


def test_full_needs_whole_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((1, 4, 4), np.float32))
    with pytest.raises(UserError, match="values of type float32; expected whole numbers"):
        Raster(path, RasterOptions(stretch="full"))


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int8", "uint8"])
def test_the_table_is_the_formula(dtype: str) -> None:
    limits = np.iinfo(dtype)
    values = RNG.integers(limits.min, limits.max + 1, (2, 300, 300)).astype(dtype)
    stretch = Stretch(np.array([-20.0, 10.0]), np.array([90.0, 100.0]), "")
    rows = np.concatenate([stretch.apply(values[:, k : k + 1]) for k in range(300)], 1)  # too few for a table
    np.testing.assert_array_equal(stretch.apply(values), rows)


def test_an_overview_averages(tmp_path: Path) -> None:
    values = np.zeros((3, 400, 600), np.uint8)
    values[:, ::2] = 200
    with Raster(write(tmp_path / "a.tif", values)) as raster:
        small = raster.overview(60)
        assert small.shape == (40, 60, 3)
        assert abs(small.astype(int) - 100).max() <= 1
        assert raster.overview(10_000).shape == (400, 600, 3)


def test_many_threads_read_one_raster(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (3, 512, 512)).astype(np.uint8)
    path = write(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with Raster(path) as raster, ThreadPoolExecutor(4) as pool:
        names = set()

        def read(k: int) -> bool:
            names.add(threading.get_ident())
            x, y = k * 37 % 400, k * 53 % 400
            return bool((raster.read(x, y, 100, 100)[0] == values[:, y : y + 100, x : x + 100].transpose(1, 2, 0)).all())

        assert all(pool.map(read, range(400)))
        assert len(names) > 1


def test_what_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty.tif").touch()
    cv2.imwrite(str(tmp_path / "cut.png"), RNG.integers(0, 255, (99, 99, 3)).astype(np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:30])
    for name in ("text.tif", "empty.tif", "missing.tif", "cut.png"):
        with pytest.raises(UserError, match=rf"{name}: found that it does not open"):
            Raster(tmp_path / name)
    with pytest.raises(UserError, match="complex values"):
        read_whole(write(tmp_path / "c.tif", np.zeros((1, 4, 4), np.complex64), nodata=0))


def test_a_damaged_part_is_named_when_it_is_met(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(3).repeat(8, 1), compress="deflate", tiled=True, blockxsize=16, blockysize=16)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:-2000] = bytes(len(data) - 2000 - half)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.tif: found a part that cannot be read"):
        read_whole(path)


def test_a_vrt_and_jpeg_2000(tmp_path: Path) -> None:
    values = noise(3)
    write(tmp_path / "a.tif", values)
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40">'
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{k}"><SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
            f"<SourceBand>{k}</SourceBand></SimpleSource></VRTRasterBand>"
            for k in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    np.testing.assert_array_equal(read_whole(tmp_path / "a.vrt")[0], values.transpose(1, 2, 0))
    write(tmp_path / "a.jp2", values, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    np.testing.assert_array_equal(read_whole(tmp_path / "a.jp2")[0], values.transpose(1, 2, 0))


def test_a_vrt_runs_no_python(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", noise(1))
    (tmp_path / "evil.vrt").write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>run</PixelFunctionType><PixelFunctionCode>"
        f"<![CDATA[\nimport pathlib\npathlib.Path(r'{tmp_path}/ran').touch()\ndef run(*a, **k):\n    pass\n]]>"
        '</PixelFunctionCode><SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(UserError, match=r"evil\.vrt"):
        read_whole(tmp_path / "evil.vrt")
    assert not (tmp_path / "ran").exists()


def test_without_the_extra_a_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    monkeypatch.setattr("rotanext.system.gdal._loaded", [])
    with pytest.raises(UserError, match=r"pip install 'rotanext\[geo\]'"):
        Raster(tmp_path / "a.jp2")


def test_handles_are_used_again(tmp_path: Path) -> None:
    """However many threads come and go, no more files are open than threads read at once."""
    with Raster(write(tmp_path / "a.tif", noise(3))) as raster:
        for _ in range(5):
            with ThreadPoolExecutor(4) as pool:
                crops = list(pool.map(lambda k: raster.read(k, 0, 10, 10)[0], range(40)))
        assert 1 <= len(raster._free) <= 5
        whole = raster.read(0, 0, 50, 40)[0]
    assert all(np.array_equal(crop, whole[:10, k : k + 10]) for k, crop in enumerate(crops))
    assert not raster._free


@pytest.mark.parametrize("rows", [1, 16])
def test_strips_are_decoded_once_for_a_row_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    path = write(tmp_path / "a.tif", noise(1), blockysize=rows, compress="deflate", nodata=3)
    asked: list[Any] = []
    read = Raster._values
    monkeypatch.setattr(Raster, "_values", lambda self, **how: (asked.append(how["window"]), read(self, **how))[1])
    with Raster(path) as raster:
        windows = [(x, y, 20, 20) for y in (0, 10, 20) for x in (0, 15, 30)]
        found = [raster.read(*window) for window in windows]
    assert asked == [(0, y, 50, 20) for y in (0, 10, 20)]
    whole, valid = read_whole(path)[:2]
    assert valid is not None
    for (x, y, width, height), (crop, shown) in zip(windows, found, strict=True):
        np.testing.assert_array_equal(crop, whole[y : y + height, x : x + width])
        part = valid[y : y + height, x : x + width]
        np.testing.assert_array_equal(part.all() if shown is None else shown, True if shown is None else part)
