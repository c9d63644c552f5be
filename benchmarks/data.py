"""Splitting a data set beside mere decoding and encoding of its images, and the training loader's rate by worker.

python benchmarks/data.py
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from measure import save

from rotanext.config import load_config
from rotanext.data.dataset import EpochOrder, TrainingSet, make_loader
from rotanext.data.index import read_entries
from rotanext.data.split import split_dataset
from rotanext.data.tiles import windows
from rotanext.errors import Problems
from rotanext.images.reading import PNG_FAST, read_image
from rotanext.synthetic.scenes import CLASS_NAMES, make_dataset

IMAGES, SIDE, TILE, OVERLAP = 8, 2048, 512, 128
THREADS = min(os.cpu_count() or 1, IMAGES // 2)


def codec_seconds(folder: Path, workers: int) -> float:
    """Seconds to decode all images and encode their tiles as PNG in memory: what splitting cannot do without."""

    def code(path: Path) -> None:
        image = read_image(path)
        for x, y, size in windows(SIDE, SIDE, [TILE], [OVERLAP]):
            cv2.imencode(".png", np.ascontiguousarray(image[y : y + size, x : x + size]), PNG_FAST)

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(code, sorted(folder.glob("*"))))
    return time.perf_counter() - start


def loader_rate(folder: Path, workers: int) -> float:
    """Augmented images a second of the training loader, after its workers have started."""
    config = load_config("demo", [f'data.train=["{folder}"]', f"data.image_size={TILE}", "data.cache=false"])
    entries = read_entries([folder], CLASS_NAMES, Problems())
    dataset = TrainingSet(entries, CLASS_NAMES, config)
    loader = make_loader(dataset, EpochOrder(len(dataset), 2, 0), workers)
    start, count = 0.0, 0
    for index, batch in enumerate(loader):
        if index == 4:
            start = time.perf_counter()
        elif index > 4:
            count += len(batch)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and save."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_dataset(root / "scenes", IMAGES, SIDE, 0, workers=os.cpu_count() or 1)
        for workers in range(1, THREADS + 1):
            bare, whole = [], []
            for _ in range(5):
                bare.append(codec_seconds(root / "scenes/images", workers))
                report = split_dataset(
                    root / "scenes",
                    root / f"tiles{workers}",
                    size=TILE,
                    overlap=OVERLAP,
                    workers=workers,
                    progress=False,
                    overwrite=True,
                )
                whole.append(report.seconds)
            share = f"{100 * median(bare) / median(whole):.0f} % of the rate of decoding and encoding alone"
            rows.append([f"split, {workers} threads", f"{report.tiles / median(whole):.1f} tiles/s", share])
        for workers in range(THREADS + 1):
            rate = f"{loader_rate(root / 'tiles1', workers):.1f} images/s"
            rows.append([f"loader, {workers} workers", rate, f"of {TILE} x {TILE}, augmented"])
    save("data", "Splitting and loading", ["work", "rate", ""], rows)


if __name__ == "__main__":
    main()
