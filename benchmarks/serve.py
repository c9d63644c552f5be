"""Load on the service: requests a second, the distribution of latencies, and what an overload is answered.

A real server (uvicorn on loopback) in this process serves a detector; clients are threads that each send one image after
another. Without --weights it is a small detector with random weights, whose time is what matters here.
"""

import argparse
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass

import cv2
import httpx
import numpy as np
import torch
import uvicorn
from measure import save, spelt

from rotanext.config import load_config
from rotanext.inference.detector import Detector, build_network
from rotanext.load import load_detector
from rotanext.serve.app import create_app
from rotanext.serve.limits import Limits


@dataclass
class Load:
    """What a load gave: seconds of each success, how often each status came, and how long it all took."""

    latencies: list[float]
    statuses: Counter[int]
    retry_after: list[int]
    seconds: float

    def row(self, name: str) -> list[str]:
        """For the table."""
        good = self.statuses[200]
        shares = [spelt(float(np.percentile(self.latencies, p))) if self.latencies else "" for p in (50, 95, 99)]
        others = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()) if status != 200) or "none"
        return [name, str(good), f"{good / self.seconds:.2f}", *shares, others]


def load(url: str, images: list[bytes], clients: int, seconds: float) -> Load:
    """Let `clients` threads send images for that long; who is told to come back waits a tenth of a second."""
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    waits: list[int] = []
    lock = threading.Lock()
    start = time.perf_counter()

    def send(index: int) -> None:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            while time.perf_counter() - start < seconds:
                begun = time.perf_counter()
                answer = client.post("/predict", files={"file": images[index % len(images)]}, params={"score": 0.3})
                taken = time.perf_counter() - begun
                index += clients
                with lock:
                    statuses[answer.status_code] += 1
                    if answer.status_code == 200:
                        latencies.append(taken)
                    elif "retry-after" in answer.headers:
                        waits.append(int(answer.headers["retry-after"]))
                if answer.status_code == 429:
                    time.sleep(0.1)

    threads = [threading.Thread(target=send, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(latencies, statuses, waits, time.perf_counter() - start)


def a_detector(weights: str | None, device: str, tile: int) -> Detector:
    """From a file, or a small one with random weights."""
    if weights is not None:
        return load_detector(weights, device)
    config = load_config("demo", [f"predict.tile={tile}", f"predict.overlap={tile // 4}"])
    torch.manual_seed(0)
    return Detector(build_network(config, 15).to(device), config, tuple(f"class {i}" for i in range(15)))


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--batches", default="1,4", help="Tiles of a batch, one server each.")
    options = parser.parse_args()
    detector = a_detector(options.weights, options.device, options.tile)
    tile = detector.config.predict.tile
    rng = np.random.default_rng(0)
    images = [
        cv2.imencode(".jpg", cv2.resize(rng.integers(0, 255, (tile // 8, tile // 8, 3)).astype(np.uint8), (tile, tile)))[
            1
        ].tobytes()
        for _ in range(8)
    ]
    rows, told = [], ""
    for batch in map(int, options.batches.split(",")):
        limits = Limits(upload=10_000_000, pixels=4_000_000, seconds=60, concurrency=8)
        app = create_app(detector, limits, batch=batch)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        load(url, images, 1, 0.5)  # warms up
        for name, clients in (("1 client", 1), ("8 clients", 8), ("overload: 24 clients", 24), ("1 client, after it", 1)):
            done = load(url, images, clients, options.seconds)
            rows.append([str(batch), *done.row(name)])
            if done.retry_after:
                told = f"Overload was told to come back after {min(done.retry_after)} to {max(done.retry_after)} s (Retry-After)."
        server.should_exit = True
        thread.join()
    header = ["--batch", "load", "answers", "a second", "p50", "p95", "p99", "refused"]
    size = f"Images of one tile, {tile} x {tile}, as JPEG; {options.weights or 'random weights'}; --concurrency 8. {told}"
    save("serve" if options.device == "cpu" else f"serve_{options.device}", "The service under load", header, rows, size)


if __name__ == "__main__":
    main()
