"""The detector on images: ours beside the same weights in fp32, NCHW, eager; the backbone beside timm's; growth with the image.

python benchmarks/model.py [--device cuda] [--size 1024] [--backbone convnext_tiny]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measure import median_seconds, save, spelt
from published import published
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rotanext.config import load_config
from rotanext.data.tiles import windows
from rotanext.inference.detector import Detector, build_network
from rotanext.models.fast import PRECISIONS, CompiledNetwork, for_inference
from rotanext.models.network import Network

CANDIDATES = 2000
RECIPE = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"
BASE = "fp32, NCHW, eager"


def run(network: Callable[[Tensor], Any], batch: Tensor) -> None:
    """One forward pass."""
    with torch.inference_mode():
        network(batch)


def variants(model: Network, plain: Network) -> dict[str, tuple[str, Callable[[Tensor], Any]]]:
    """Precision and network of all that is compared: ours in what the device computes in, compiled on a GPU."""
    cuda = model.mean.is_cuda
    compared: dict[str, tuple[str, Callable[[Tensor], Any]]] = {BASE: ("fp32", partial(published, plain))}
    for precision in ("fp32", "bf16", "fp16") if cuda else ("fp32", "bf16") if "avx512_bf16" in flags() else ("fp32",):
        fast = for_inference(model, precision)
        compared[f"ours, {precision}"] = (precision, fast)
        if cuda:
            compared[f"ours, {precision}, compiled"] = (precision, CompiledNetwork(fast))
    return compared


def forward_rows(
    compared: dict[str, tuple[str, Callable[[Tensor], Any]]], batch: Tensor, rate: float, flops: int
) -> list[list[str]]:
    """The network alone; `rate` is that of a large matrix product, `flops` those of one image."""
    functions = {name: partial(run, network, batch.to(PRECISIONS[kind])) for name, (kind, network) in compared.items()}
    times = median_seconds(functions, 5, 90)
    rows = []
    for name, seconds in times.items():
        network = compared[name][1]
        note = " (fell back)" if isinstance(network, CompiledNetwork) and not network.works else ""
        per_second = len(batch) / seconds
        share = f"{100 * flops * per_second / rate:.0f} %"
        work = f"forward, batch {len(batch)}: {name}{note}"
        rows.append([work, spelt(seconds), f"{per_second:.3g}", f"{times[BASE] / seconds:.2f} x", share])
    return rows


def whole_rows(
    detector: Detector, compared: dict[str, tuple[str, Callable[[Tensor], Any]]], image: np.ndarray, batch: int
) -> list[list[str]]:
    """From uint8 images to boxes, decoding and NMS included, at about as many candidates as a crowded image has."""
    functions, found = {}, {}
    for name, (kind, network) in compared.items():
        one = Detector(detector.model, detector.config, detector.class_names, precision=kind)
        vars(one)["network"] = network
        functions[name] = partial(one.detect_crops, [image] * batch, detector.config.predict.score_threshold, batch)
        found[name] = len(functions[name]()[0])
        assert found[name]
    times = median_seconds(functions, 5, 90)
    rows = []
    for name, seconds in times.items():
        work = f"whole detector, batch {batch}, to {found[name]} boxes an image: {name}"
        rows.append([work, spelt(seconds), f"{batch / seconds:.3g}", f"{times[BASE] / seconds:.2f} x", ""])
    return rows


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a product of two large matrices, in bf16 on a GPU and fp32 elsewhere."""
    side, kind = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a = torch.randn(side, side, device=device, dtype=kind)
    return 2 * side**3 / median_seconds({"product": lambda: a @ a}, 9)["product"]


def growth(device: torch.device) -> None:
    """The demo's small network, tile by tile, on images of 1 to 256 megapixels, with as many detections as crowded ones have."""
    config = load_config("demo", ["predict.tile=1024", "predict.overlap=128", "predict.max_detections=100000"])
    detector = Detector(build_network(config, 6).to(device), config, tuple(f"class{k}" for k in range(6)))
    pattern = torch.randint(0, 255, (1024, 1024, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    scores = detector.reconfigured(score_threshold=0.0, iou_threshold=1.0)(pattern).scores
    detector = detector.reconfigured(score_threshold=scores[CANDIDATES // 10].item(), iou_threshold=0.99, merge_iou=0.1)
    batch = 8 if device.type == "cuda" else 1
    detector(np.tile(pattern, (4, 4, 1)), batch_size=batch)
    rows = []
    for side in (1024, 2048, 4096, 8192, 16384):
        image = np.tile(pattern, (side // 1024, side // 1024, 1))
        start = time.perf_counter()
        found = len(detector(image, batch_size=batch))
        seconds = time.perf_counter() - start
        tiles = len(windows(side, side, [1024], [128], 0.0))
        rows.append([f"{side} x {side}", f"{tiles}", f"{found:,}", spelt(seconds), spelt(seconds / tiles)])
    header = ["image", "tiles of 1024", "boxes", "one run", "a tile"]
    save(f"growth-{device.type}", "The demo's network on images of growing size, merging included", header, rows)


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
    overrides = ["backbone.weights=", f"backbone.name={options.backbone}", "predict.max_detections=100000"]
    config = load_config(RECIPE, overrides)
    model, plain = build_network(config, 15).to(device).eval(), build_network(config, 15).to(device).eval()
    for values in model.head.parameters():
        torch.nn.init.normal_(values, std=0.03)  # so that scores differ from place to place
    plain.load_state_dict(model.state_dict())
    plain = plain.to(memory_format=torch.contiguous_format)
    compared, rate, rows = variants(model, plain), matrix_rate(device), []
    batch = torch.randn(1, 3, options.size, options.size, device=device).to(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        expected = published(plain, batch)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch), expected, rtol=1e-2, atol=1e-2)  # the baseline computes the same
    counts = (1,) if device.type == "cpu" else (1, 8, 16)
    for count in counts:
        rows += forward_rows(
            compared, batch.expand(count, -1, -1, -1).clone(memory_format=torch.channels_last), rate, counter.get_total_flops()
        )
    detector = Detector(model, config, tuple(f"class{k}" for k in range(15)))
    image = torch.randint(0, 255, (options.size, options.size, 3), dtype=torch.uint8).numpy()
    scores = detector.reconfigured(score_threshold=0.0, iou_threshold=1.0)(image).scores
    detector = detector.reconfigured(score_threshold=scores[min(CANDIDATES, len(scores) - 1)].item())
    for count in counts:
        rows += whole_rows(detector, compared, image, count)
    if options.backbone in timm.list_models():
        theirs = timm.create_model(options.backbone, features_only=True).to(device).eval()
        ours = for_inference(model).backbone
        times = median_seconds({"timm": partial(run, theirs, batch.contiguous()), "ours": partial(run, ours, batch)}, 5, 60)
        for name, seconds in times.items():
            work = f"backbone alone, batch 1, fp32: {name}"
            rows.append([work, spelt(seconds), f"{1 / seconds:.3g}", f"{times['timm'] / seconds:.2f} x of timm", ""])
    title = f"{options.backbone} rotated RetinaNet at {options.size} x {options.size}"
    note = f"A large matrix product reaches {rate / 1e12:.3g} TFLOP/s here ({'bf16' if device.type == 'cuda' else 'fp32'}); "
    note += f"one image is {counter.get_total_flops() / 1e9:.0f} GFLOP in plain convolutions and products."
    if device.type == "cuda":
        allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        note += f" TF32 in the fp32 baseline: convolutions {allowed[0]}, products {allowed[1]}."
    header = ["work", "median", "images/s", f"against {BASE}", "share of the matrix rate"]
    save(f"model-{device.type}", title, header, rows, note)
    growth(device)


if __name__ == "__main__":
    main()
