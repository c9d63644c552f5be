"""From an upload's bytes to a scene, and everything that is none."""

import struct
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rotanext.errors import UserError
from rotanext.serve import uploads
from rotanext.serve.limits import Refused
from rotanext.serve.uploads import Upload, kind_of
from serving import LIMITS, Server, encoded, geotiff, noise, said


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


HARMFUL = {
    "empty": (b"", 422),
    "text": (b"hello", 415),
    "vrt": (b'<VRTDataset rasterXSize="9" rasterYSize="9"><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>', 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 415),
    "path": (b"/vsicurl/http://127.0.0.1:1/a.tif", 415),
    "gif": (b"GIF89a" + bytes(100), 415),
    "bmp": (b"BM" + bytes(100), 415),
    "zip": (b"PK\x03\x04" + bytes(100), 415),
    "png of nothing": (png_claiming(0, 5), 422),
    "png bomb": (png_claiming(60_000, 60_000), 413),
    "png without its pixels": (png_claiming(500, 500), 422),
    "png signature alone": (b"\x89PNG\r\n\x1a\n", 422),
    "png cut": (encoded(noise(64, 64))[:2000], 422),
    "jpeg signature alone": (b"\xff\xd8\xff", 422),
    "jpeg cut": (encoded(noise(64, 64), ".jpg")[:1500], 422),
    "jpeg of endless segments": (b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000, 422),
    "jpeg bomb": (b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(40) + b"\xff\xd9", 413),
    "tiff signature alone": (b"II*\0", 422),
    "tiff of nothing": (b"II*\0" + bytes(100), 422),
    "tiff and vrt": (b"II*\0\x08\0\0\0<VRTDataset rasterXSize='9' rasterYSize='9'></VRTDataset>", 422),
    "jpeg 2000 signature alone": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), 422),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_uploads_are_refused(server: Server, name: str) -> None:
    data, status = HARMFUL[name]
    start = time.monotonic()
    said(server.post(data), status)
    raw = server.client.post("/predict", content=data, headers={"content-type": "application/octet-stream"})
    said(raw, status)
    assert time.monotonic() - start < 5


def test_tiffs_that_would_take_much_memory_are_refused(server: Server, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    large = {"driver": "GTiff", "count": 1, "dtype": "uint8", "compress": "deflate", "sparse_ok": True}
    for name, shape, options in (
        ("wide", (50_000, 50_000), {}),
        ("deep", (1500, 1500), {"count": 40, "dtype": "float64"}),
        ("blocks", (100, 100), {"tiled": True, "blockxsize": 32_768, "blockysize": 32_768}),
    ):
        with rasterio.open(tmp_path / f"{name}.tif", "w", width=shape[1], height=shape[0], **large | options):
            pass
        data = (tmp_path / f"{name}.tif").read_bytes()
        assert len(data) < LIMITS.upload
        said(server.post(data), 413)


def test_every_cut_of_every_kind_is_refused_or_answered(server: Server, tmp_path: Path) -> None:
    kinds = [encoded(noise(40, 40)), encoded(noise(40, 40), ".jpg"), geotiff(noise(40, 40), tmp_path / "a.tif", compress="deflate")]
    for data in kinds:
        for share in (0.02, 0.1, 0.3, 0.6, 0.9, 0.99):
            assert server.post(data[: int(len(data) * share)]).status_code in (200, 415, 422)
    rng = np.random.default_rng(5)
    for data in kinds * 10:
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 6):
            damaged[at] = rng.integers(0, 256)
        assert server.post(bytes(damaged)).status_code in (200, 413, 415, 422)


def test_a_coordinate_system_that_names_files_is_not_used(server: Server, tmp_path: Path) -> None:
    crs = "+proj=longlat +ellps=bessel +nadgrids=/etc/passwd +no_defs"
    data = geotiff(noise(64, 64), tmp_path / "a.tif", crs)
    answer = server.post(data, format="both")
    assert answer.status_code == 200
    with Upload(data, LIMITS) as upload:
        assert upload.georeference is None or "passwd" not in upload.georeference.crs.to_wkt()
    mercator = geotiff(noise(64, 64), tmp_path / "b.tif", "EPSG:3857")
    assert server.post(mercator, format="both").json()["image"]["georeferenced"]


KINDS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff\xe0", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)


@pytest.mark.parametrize(("start", "kind"), KINDS)
def test_kinds_by_the_first_bytes(start: bytes, kind: str) -> None:
    assert kind_of(start + bytes(10)) == kind
    with pytest.raises(Refused) as refused:
        kind_of(b" " + start)
    assert refused.value.status == 415


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG")])
def test_an_upload_is_a_scene(suffix: str, kind: str) -> None:
    image = noise(60, 40)
    data = encoded(image, suffix)
    with Upload(data, LIMITS) as upload:
        assert (upload.kind, upload.width, upload.height, upload.georeference, upload.notes) == (kind, 60, 40, None, [])
        pixels, _ = upload.read(10, 5, 20, 30)
        assert pixels.shape == (30, 20, 3)
        assert kind != "PNG" or (pixels == image[5:35, 10:30]).all()
        assert upload.overview(30).shape == (20, 30, 3)


def test_an_upload_without_the_extra_for_rasters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIFFs are then read without GDAL, under the same limits, and lie nowhere."""
    image = noise(60, 40)
    data = geotiff(image, tmp_path / "a.tif")
    with Upload(data, LIMITS) as upload:
        assert upload.georeference is not None
    monkeypatch.setattr(uploads, "reads_rasters", lambda: False)
    with Upload(data, LIMITS) as upload:
        assert (upload.kind, upload.georeference) == ("TIFF", None)
        np.testing.assert_array_equal(upload.read(0, 0, 60, 40)[0], image)
    with pytest.raises(Refused) as refused:
        Upload(data, replace(LIMITS, pixels=2399))
    assert refused.value.status == 413
    tiled = geotiff(image, tmp_path / "b.tif", tiled=True, blockxsize=8192, blockysize=8192)
    assert len(tiled) > 0
    with pytest.raises(Refused, match="8192 x 8192"):
        Upload(tiled, LIMITS)


def test_sizes_of_jpegs_stand_in_their_first_frame() -> None:
    jpeg = encoded(noise(60, 40), ".jpg")
    thumbnail = b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg  # one of another size, in a segment before it
    for before in (b"", b"\xff\xfe\0\4ab", b"\xff\xff\xff", thumbnail):
        assert uploads._jpeg_size(encoded(noise(33, 22), ".jpg")[:2] + before + encoded(noise(33, 22), ".jpg")[2:]) == (33, 22)


@pytest.mark.parametrize(
    ("wkt", "names"),
    [
        ("", False),
        ("+nadgrids=@null +no_defs", False),
        ("+nadgrids=/etc/passwd", True),
        ('PARAMETERFILE["x"]', True),
        ("+proj=utm +zone=33", False),
    ],
)
def test_coordinate_systems_that_name_files(wkt: str, names: bool) -> None:
    assert uploads._names_files(wkt) is names


def test_readers_that_fail_blame_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(uploads, "decode_image", broken)
    with pytest.raises(UserError, match=r"^the image cannot be read \(first line\)$"):
        Upload(encoded(noise(8, 8)), LIMITS)
