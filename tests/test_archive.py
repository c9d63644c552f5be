"""Archives through Ray: the same detections as plain prediction, whatever fails, wherever scenes lie."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import tiny_config
from rich.console import Console

from rotanext.archive.addresses import Ranges, list_scenes, open_address
from rotanext.archive.cluster import ClusterOptions, Gathering, Summary, predict_archive
from rotanext.archive.results import Journal, Record, Target, result_name
from rotanext.archive.work import Job, load_weights, pack, plan, unpack
from rotanext.data.images import write_png
from rotanext.data.raster import Raster, RasterOptions
from rotanext.detections import Detections
from rotanext.detector import Detector, build_model
from rotanext.errors import Problems, UserError
from rotanext.predict import PredictOptions, predict
from rotanext.progress import Reporter

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'rotanext[ray]'")
pq = pytest.importorskip("pyarrow.parquet")
rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

SCORE = 0.08
OPTIONS = PredictOptions(score_threshold=SCORE, pictures=False)
TWO = ClusterOptions(workers=2, cores=1, chunk=5)
WAIT = 100  # seconds after which a test counts as hung


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
    pytest.importorskip("s3fs")
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


@pytest.fixture(scope="module")
def one_machine(storage: str) -> Iterator[None]:
    """Ray with two cores, for all tests that do not start their own."""
    ray.init(
        "local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A small network with random weights, wide enough that scores differ."""
    torch.manual_seed(0)
    config = tiny_config(Path("unread"), None, "predict.image_size=0", "predict.tile=64", "predict.gap=16")
    model = build_model(config, 2)
    for name, values in model.head.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(values, std=0.1)
    return Detector(model, config, ("plane", "ship"))


def draw(width: int, height: int, seed: int) -> np.ndarray:
    """Noise with bright rectangles, uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (height, width, 3)).astype(np.uint8)
    for _ in range(width * height // 1500):
        box = ((rng.uniform(0, width), rng.uniform(0, height)), (24, 8), rng.uniform(0, 180))
        cv2.fillPoly(image, [np.rint(cv2.boxPoints(box)).astype(np.int32)], (230, 40, 40))
    return image


def write_raster(path: Path, image: np.ndarray, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    settings = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": width, "height": height} | profile
    with rasterio.open(path, "w", **settings) as file:
        file.write(image.transpose(2, 0, 1))
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rasters with a place, one without, an empty one, and two pictures; several tiles each."""
    root = tmp_path_factory.mktemp("scenes")
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5)}
    write_raster(root / "a.tif", draw(300, 250, 0), **place)
    write_raster(root / "b.tif", draw(130, 420, 1), tiled=True, blockxsize=64, blockysize=64, compress="deflate", **place)
    write_raster(root / "c.tif", draw(200, 200, 2))
    write_raster(root / "empty.tif", np.zeros((200, 200, 3), np.uint8), nodata=0, **place)
    write_png(root / "d.png", draw(150, 150, 3))
    write_png(root / "small.png", draw(50, 40, 4))
    return root


@pytest.fixture(scope="module")
def plain(detector: Detector, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detections]:
    """What prediction without Ray finds, by stem."""
    found = predict(detector, scenes, tmp_path_factory.mktemp("plain"), OPTIONS, Problems(strict=True), quiet())
    assert sum(map(len, found.values())) > 100
    assert min(len(found[stem]) for stem in "abcd") > 5
    return found


def quiet() -> Reporter:
    return Reporter(Console(quiet=True))


def run(detector: Detector, source: object, target: object, problems: Problems | None = None, **changes: Any) -> Summary:
    options, cluster = changes.pop("options", OPTIONS), changes.pop("cluster", TWO)
    return predict_archive(
        detector, str(source), str(target), options, cluster, problems or Problems(strict=True), quiet(), **changes
    )


def check_result(path: str | Path, expected: Detections) -> None:
    """A result file holds exactly these detections, in order."""
    table = pq.read_table(str(path)) if "://" not in str(path) else pq.read_table(open_remote(str(path)))
    assert table["class"].to_pylist() == expected.names
    np.testing.assert_allclose(table["score"].to_numpy(), expected.scores.double().numpy(), atol=1e-6)
    boxes = np.stack([table[name].to_numpy() for name in ("cx", "cy", "w", "h", "angle")], 1)
    np.testing.assert_allclose(boxes, expected.boxes.double().numpy(), atol=1e-3)


def open_remote(address: str) -> Any:
    import fsspec

    return fsspec.open(address).open()


def results(target: Path) -> dict[str, Path]:
    return {path.name.rsplit("-", 1)[0]: path for path in (target / "scenes").iterdir()}


def manifest(target: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(target / "manifest.parquet").to_pylist()
    assert len({row["address"] for row in rows}) == len(rows)
    return {Path(row["address"]).name: row for row in rows}


def test_an_archive_is_what_plain_prediction_finds(
    one_machine: None, detector: Detector, scenes: Path, plain: dict[str, Detections], tmp_path: Path
) -> None:
    done = run(detector, scenes, tmp_path / "out")
    assert (done.scenes, done.skipped, done.done, done.failed) == (6, 0, 6, 0)
    assert done.detections == sum(map(len, plain.values()))
    files = results(tmp_path / "out")
    assert files.keys() == plain.keys()
    for stem, expected in plain.items():
        check_result(files[stem], expected)
    rows = manifest(tmp_path / "out")
    for name, row in rows.items():
        assert row["status"] == "done"
        assert row["detections"] == len(plain[Path(name).stem])
        assert tmp_path / "out" / row["file"] == files[Path(name).stem]
    assert (rows["a.tif"]["width"], rows["a.tif"]["height"], rows["a.tif"]["tiles"]) == (300, 250, 6 * 5)
    assert done.tiles == sum(row["tiles"] for row in rows.values())
    frame = geopandas.read_parquet(files["a"])
    assert frame.crs.to_epsg() == 32633
    assert frame.geometry.centroid.x.to_numpy() == pytest.approx(5e5 + 0.5 * frame["cx"].to_numpy(), abs=1e-3)
    assert b"geo" not in pq.read_schema(files["c"]).metadata
    assert not list((tmp_path / "out/journal").iterdir())
