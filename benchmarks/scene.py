"""Scenes on disk: the rate of reading, detecting and merging beside the bare model's on the same tiles; and peak memory.

The bare model is network, decoding and suppression on tiles that lie in memory.

python benchmarks/scene.py [--device cuda] [--precision fp16] [--batch 8] [--raster FILE]...
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import median_seconds, save

from rotanext.config import load_config
from rotanext.images.raster import Raster, load_rasterio, settings
from rotanext.images.reading import read_image
from rotanext.inference.detector import Detector, build_network
from rotanext.inference.tiles import Tiling
from rotanext.load import save_detector
from rotanext.synthetic.scenes import CLASS_NAMES, make_dataset

TILE, OVERLAP, SIDE = 1024, 200, 4096
BACKBONES = ("convnext_atto", "convnext_tiny")
CANDIDATES = (200, 3000)  # of a tile, of which about half remain: usual scenes, and crowded ones
LIMIT = 1.5  # GB


def random_detector(backbone: str, device: str, precision: str) -> Detector:
    """A detector with random weights whose scores are spread."""
    torch.manual_seed(0)
    config = load_config("demo", [f"backbone.name={backbone}", f"predict.tile={TILE}", f"predict.overlap={OVERLAP}"])
    model = build_network(config, len(CLASS_NAMES))
    torch.nn.init.normal_(model.head.cls_out.weight, std=0.05)
    return Detector(model.to(device), config, CLASS_NAMES, precision=precision)


def write_raster(path: Path, folder: Path) -> None:
    """A tiled, deflated GeoTIFF of drawn scenes."""
    make_dataset(folder, 4, SIDE // 2, 0, workers=2)
    parts = [read_image(file) for file in sorted((folder / "images").glob("*"))]
    image = np.concatenate([np.concatenate(parts[:2], 1), np.concatenate(parts[2:], 1)])
    profile = {"driver": "GTiff", "count": 3, "width": SIDE, "height": SIDE, "dtype": "uint8", "compress": "deflate"}
    with load_rasterio().open(path, "w", **profile, tiled=True, blockxsize=512, blockysize=512, predictor=2) as file:
        file.write(image.transpose(2, 0, 1))


def throughput(path: Path, backbone: str, candidates: int, options: argparse.Namespace) -> list[str]:
    """Tiles a second of the bare model on tiles in memory, and of a scene on disk, with so many scores above the threshold."""
    detector = random_detector(backbone, options.device, options.precision)
    with Raster(path) as raster:
        windows = Tiling(TILE, OVERLAP).windows(raster.width, raster.height)
        crops = [raster.read(*window)[0] for window in windows]
        logits = torch.cat([x.flatten() for x in detector.network(detector.model.prepare([torch.from_numpy(crops[0])]))[0]])
        threshold = logits.float().sigmoid().sort(descending=True).values[candidates].item()

        def bare() -> None:
            for at in range(0, len(crops), options.batch):
                detector.detect_crops(crops[at : at + options.batch], threshold, 0)

        def scene() -> int:
            return len(detector.on_scene(raster, score_threshold=threshold, batch_size=options.batch))

        boxes = scene()
        seconds = median_seconds({"bare": bare, "scene": scene}, runs=5, seconds=300)
    rates = [len(windows) / seconds[name] for name in ("bare", "scene")]
    what = f"{backbone}, {options.precision}, batch {options.batch}, {len(windows)} tiles, {boxes / len(windows):.0f} boxes a tile"
    return [what, *(f"{rate:.2f} tiles/s" for rate in rates), f"{100 * rates[1] / rates[0]:.1f} %", "90 %"]


def peak_memory(path: Path, backbone: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Peak memory of `rotanext predict` on a raster, in a process of its own."""
    weights = folder / f"{backbone}.safetensors"
    save_detector(random_detector(backbone, "cpu", "fp32"), weights)
    command = [sys.executable, "-m", "rotanext", "predict", str(path), "--weights", str(weights), "--out", str(folder / "out")]
    command += ["--score", "0.5", "--batch", str(options.batch), "--device", options.device]
    code = (
        "import subprocess, sys, resource; subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    with Raster(path) as raster:
        size = f"{raster.width} x {raster.height}"
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start
    return [
        f"{backbone}, {path.name}, {size}",
        f"{int(done.stdout) * 1024 / 1e9:.2f} GB",
        f"{LIMIT} GB",
        f"{used:.0f} s of processor",
    ]


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--backbone", nargs="*", default=BACKBONES)
    parser.add_argument("--raster", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    kind = torch.device(options.device).type
    with tempfile.TemporaryDirectory() as name, settings():
        folder = Path(name)
        write_raster(folder / "drawn.tif", folder / "scenes")
        rows = [throughput(folder / "drawn.tif", backbone, count, options) for backbone in options.backbone for count in CANDIDATES]
        header = ["model", "bare model, tiles in memory", "scene: read, detect, merge", "share", "goal"]
        save(f"scene-{kind}", "A scene on disk beside the bare model", header, rows)
        rows = [peak_memory(folder / "drawn.tif", backbone, folder, options) for backbone in options.backbone]
        rows += [peak_memory(path, options.backbone[0], folder, options) for path in options.raster]  # an hour with a larger model
        save(f"scene-memory-{kind}", "Peak memory of `rotanext predict`", ["model, raster", "peak", "limit", ""], rows)


if __name__ == "__main__":
    main()
