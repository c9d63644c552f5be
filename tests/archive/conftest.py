"""Fixtures of the tests of archives."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from archives import OPTIONS, draw, quiet, write_raster
from rotanext.detections import Detections
from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.inference.detector import Detector, build_network
from rotanext.inference.predict import predict
from tiny import tiny_config

WAIT = 900  # seconds after which a test counts as hung; 250 on a machine with ten times its work


@pytest.fixture(autouse=True)
def _not_for_ever() -> Iterator[None]:
    """A hang fails: an alarm interrupts whatever waits in the main thread."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"the test took more than {WAIT} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(WAIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """The address of an S3 server on the loopback; s3fs finds it, and its credentials, in the environment, as workers do."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # one that another module left knows that module's server
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A small network with random weights, wide enough that scores differ."""
    torch.manual_seed(0)
    config = tiny_config(Path("unread"), None, "predict.image_size=0", "predict.tile=64", "predict.overlap=16")
    model = build_network(config, 2)
    for name, values in model.head.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(values, std=0.1)
    return Detector(model, config, ("plane", "ship"))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rasters with a place, one without, an empty one, and two images; several tiles each."""
    rasterio = pytest.importorskip("rasterio")
    root = tmp_path_factory.mktemp("scenes")
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5)}
    write_raster(root / "a.tif", draw(300, 250, 0), **place)
    write_raster(root / "b.tif", draw(130, 420, 1), tiled=True, blockxsize=64, blockysize=64, compress="deflate", **place)
    write_raster(root / "c.tif", draw(200, 200, 2))
    write_raster(root / "empty.tif", np.zeros((200, 200, 3), np.uint8), nodata=0, **place)
    write_png(root / "d.png", draw(150, 150, 3))
    write_png(root / "small.png", draw(50, 40, 4))
    return root


@pytest.fixture(scope="session")
def plain(detector: Detector, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detections]:
    """What prediction without Ray finds, by stem."""
    found = predict(detector, scenes, tmp_path_factory.mktemp("plain"), OPTIONS, Problems(strict=True), quiet())
    assert sum(map(len, found.values())) > 100
    assert min(len(found[stem]) for stem in "abcd") > 5
    return found
