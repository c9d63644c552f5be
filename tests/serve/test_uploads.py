"""From an upload's bytes to a scene, and everything that is none."""

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from rotanext.serve.uploads import Upload
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
