"""Scenes for archives, and what their results must hold."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from rotanext.archive.cluster import ClusterOptions
from rotanext.detections import Detections
from rotanext.inference.predict import PredictOptions
from rotanext.system.progress import Display

SCORE = 0.08
OPTIONS = PredictOptions(score_threshold=SCORE, images=False)
TWO = ClusterOptions(workers=2, cores=1, chunk=5)


def draw(width: int, height: int, seed: int) -> np.ndarray:
    """Noise with bright rectangles, uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (height, width, 3)).astype(np.uint8)
    for _ in range(width * height // 1500):
        box = ((rng.uniform(0, width), rng.uniform(0, height)), (24, 8), rng.uniform(0, 180))
        cv2.fillPoly(image, [np.rint(cv2.boxPoints(box)).astype(np.int32)], (230, 40, 40))
    return image


def write_raster(path: Path, image: np.ndarray, **profile: Any) -> Path:
    rasterio = pytest.importorskip("rasterio")
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    settings = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": width, "height": height} | profile
    with rasterio.open(path, "w", **settings) as file:
        file.write(image.transpose(2, 0, 1))
    return path


def quiet() -> Display:
    return Display(Console(quiet=True))


def check_result(path: str | Path, expected: Detections) -> None:
    """A result file holds exactly these detections, in order."""
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(str(path)) if "://" not in str(path) else pq.read_table(open_remote(str(path)))
    assert table["class"].to_pylist() == expected.names
    np.testing.assert_allclose(table["score"].to_numpy(), expected.scores.double().numpy(), atol=1e-6)
    boxes = np.stack([table[name].to_numpy() for name in ("cx", "cy", "w", "h", "angle")], 1)
    np.testing.assert_allclose(boxes, expected.boxes.double().numpy(), atol=1e-3)


def open_remote(address: str) -> Any:
    import fsspec

    return fsspec.open(address).open()


def manifest(target: Path) -> dict[str, dict[str, Any]]:
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(target / "manifest.parquet").to_pylist()
    assert len({row["address"] for row in rows}) == len(rows)
    return {Path(row["address"]).name: row for row in rows}
