"""A real server for tests, a detector whose scores are spread out, and images to send."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
import uvicorn

from rotanext.detections import Detections
from rotanext.inference.detector import Detector
from rotanext.load import load_detector
from rotanext.serve.app import create_app
from rotanext.serve.limits import Limits

LIMITS = Limits(upload=2_000_000, pixels=4_000_000, seconds=20.0, concurrency=4)


class Server:
    """A real server on a free port of loopback."""

    def __init__(self, detector: Detector, limits: Limits = LIMITS, *, batch: int = 1, token: str | None = None) -> None:
        self.app = create_app(detector, limits, batch=batch, token=token)
        self.service = self.app.state.service
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", timeout_graceful_shutdown=5))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        while not self._server.started:
            time.sleep(0.01)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def post(self, data: bytes, name: str = "a.png", headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
        return self.client.post("/predict", files={"file": (name, data)}, params=query, headers=headers)

    def settled(self) -> None:
        """Wait until no request holds a place."""
        end = time.monotonic() + 20
        while self.service.gate.inside and time.monotonic() < end:
            time.sleep(0.01)
        assert not self.service.gate.inside


def spread_detector(weights: Path) -> Detector:
    """The tiny detector on tiles of 64 pixels, its scores spread out."""
    made = load_detector(weights, "cpu").reconfigured(image_size=0, tile=64, overlap=16)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in made.model.named_parameters():
            if name.startswith("head.") and "cls" in name and value.ndim > 1:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return made


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def geotiff(image: np.ndarray, path: Path, crs: str | None = "EPSG:32633", **options: Any) -> bytes:
    rasterio = pytest.importorskip("rasterio")
    height, width = image.shape[:2]
    place = rasterio.transform.from_origin(400_000, 5_000_000, 0.5, 0.5)
    values = np.moveaxis(image, 2, 0)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=len(values),
        dtype=image.dtype,
        crs=crs,
        transform=place,
        **options,
    ) as file:
        file.write(values)
    return path.read_bytes()


def said(answer: httpx.Response, status: int) -> str:
    """What a refusal says, which must be a problem of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    return str(problem["detail"])


def waiting_detector(detector: Detector) -> tuple[Detector, threading.Event, threading.Event]:
    """A detector that waits for the second event, and sets the first when it does."""
    slow = Detector(detector.model, detector.config, detector.class_names)
    begun, go_on = threading.Event(), threading.Event()

    def detect(crops: list[np.ndarray], threshold: float, fill: int = 0) -> list[Detections]:
        begun.set()
        go_on.wait(20)
        return Detector.detect_crops(slow, crops, threshold)

    slow.detect_crops = detect  # type: ignore[method-assign]
    return slow, begun, go_on
