"""The detector's forward pass: ours beside the same weights in fp32, NCHW, eager, and the backbone beside timm's.

python benchmarks/model.py [--device cuda] [--size 1024] [--backbone convnext_tiny]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
from measure import median_seconds, save, spelt
from torch import Tensor

from rotanext.config import load_config
from rotanext.data.split import windows
from rotanext.detector import Detector, build_model
from rotanext.inference import PRECISIONS, CompiledNetwork, for_inference
from rotanext.models import convnext
from rotanext.models.convnext import Block
from rotanext.models.retinanet import RetinaNet

CANDIDATES = 2000
RECIPE = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"


def run(network: Callable[[Tensor], Any], batch: Tensor) -> None:
    """One forward pass."""
    with torch.inference_mode():
        network(batch)


def as_published(network: RetinaNet, batch: Tensor) -> None:
    """One forward pass of the plain network as toolboxes run it: every map NCHW in memory, so that norms and MLPs copy it."""

    def block(self: Block, x: Tensor) -> Tensor:
        y = self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        return x + (y * self.gamma).permute(0, 3, 1, 2).contiguous()

    def norm(x: Tensor, layer: torch.nn.Module) -> Tensor:
        return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()

    with patch.object(Block, "forward", block), patch.object(convnext, "norm_channels", norm), torch.inference_mode():
        network(batch)


def networks(model: RetinaNet, plain: RetinaNet, batch: Tensor) -> dict[str, Callable[[], None]]:
    """What is compared: plain fp32 NCHW, ours in fp32 and, where the device computes in it, bf16; compiled on a GPU."""
    compared: dict[str, Callable[[], None]] = {"fp32, NCHW, eager": partial(as_published, plain, batch.contiguous())}
    cuda = batch.is_cuda
    for precision in ("fp32", "bf16") if cuda or "avx512_bf16" in flags() else ("fp32",):
        fast, given = for_inference(model, precision), batch.to(PRECISIONS[precision])
        compared[f"ours, {precision}"] = partial(run, fast, given)
        if cuda:
            compared[f"ours, {precision}, compiled"] = partial(run, CompiledNetwork(fast), given)
    return compared


def growth(device: torch.device) -> list[list[str]]:
    """The demo's small network, tile by tile, on pictures of 1 to 256 megapixels, with as many detections as crowded ones have."""
    config = load_config("demo", ["predict.tile=1024", "predict.gap=128", "predict.max_detections=100000"])
    detector = Detector(build_model(config, 6).to(device), config, tuple(f"class{k}" for k in range(6)))
    pattern = torch.randint(0, 255, (1024, 1024, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    scores = detector.reconfigured(score_threshold=0.0, iou_threshold=1.0)(pattern).scores
    detector = detector.reconfigured(score_threshold=scores[CANDIDATES // 10].item(), iou_threshold=0.99, merge_iou=0.1)
    rows = []
    for side in (1024, 2048, 4096, 8192, 16384):
        image = np.tile(pattern, (side // 1024, side // 1024, 1))
        start = time.perf_counter()
        found = len(detector(image, batch_size=8 if device.type == "cuda" else 1))
        seconds = time.perf_counter() - start
        tiles = len(windows(side, side, [1024], [128], 0.0))
        work = f"demo network, {side} x {side} in {tiles} tiles, {found:,} boxes"
        rows.append([work, spelt(seconds), f"{1 / seconds:.3g}", f"{spelt(seconds / tiles)} a tile"])
    return rows


def flags() -> str:
    """The processor's abilities, as Linux names them."""
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        return next((line for line in file if line.startswith("flags")), "")


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--backbone", default="convnext_tiny")
    options = parser.parse_args()
    device = torch.device(options.device)
    config = load_config(RECIPE, ["model.weights=", f"model.backbone={options.backbone}", "predict.max_detections=100000"])
    model, plain = build_model(config, 15).to(device).eval(), build_model(config, 15).to(device).eval()
    plain.load_state_dict(model.state_dict())
    plain = plain.to(memory_format=torch.contiguous_format)
    rows = []
    for count in (1,) if device.type == "cpu" else (1, 8, 16):
        batch = torch.randn(count, 3, options.size, options.size, device=device).to(memory_format=torch.channels_last)
        times = median_seconds(networks(model, plain, batch), 5, 90)
        base = times["fp32, NCHW, eager"]
        for name, seconds in times.items():
            rows.append([f"forward, batch {count}: {name}", spelt(seconds), f"{count / seconds:.3g}", f"{base / seconds:.2f} x"])
    if options.backbone in timm.list_models():
        theirs = timm.create_model(options.backbone, features_only=True).to(device).eval()
        batch = torch.randn(1, 3, options.size, options.size, device=device)
        ours = for_inference(model).backbone
        times = median_seconds({"timm": partial(run, theirs, batch), "ours": partial(run, ours, batch)}, 5, 60)
        for name, seconds in times.items():
            rows.append(
                [f"backbone alone, batch 1, fp32: {name}", spelt(seconds), f"{1 / seconds:.3g}", f"{times['timm'] / seconds:.2f} x"]
            )
    detector = Detector(model, config, tuple(f"class{k}" for k in range(15)))
    image = torch.randint(0, 255, (options.size, options.size, 3), dtype=torch.uint8).numpy()
    everything = detector.reconfigured(score_threshold=0.0, iou_threshold=1.0)(image)
    # Random weights score alike everywhere: the threshold leaves as many candidates as a crowded picture has.
    detector = detector.reconfigured(score_threshold=everything.scores[CANDIDATES].item())
    found = len(detector(image))
    assert found > 0
    seconds = median_seconds({"whole": partial(detector, image)}, 5, 60)["whole"]
    rows.append([f"whole detector, uint8 picture to {found} boxes, fp32", spelt(seconds), f"{1 / seconds:.3g}", ""])
    rows += growth(device)
    title = f"{options.backbone} rotated RetinaNet at {options.size} x {options.size}"
    save(f"model-{device.type}", title, ["work", "median", "pictures/s", "against its baseline"], rows)


if __name__ == "__main__":
    main()
