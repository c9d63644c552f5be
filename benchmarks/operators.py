"""Rotated NMS, IoU and assignment: each beside the readable operators and torchvision's, and how the cost grows.

python benchmarks/operators.py [--device cuda]
"""

import argparse
from functools import partial

import numpy as np
import torch
from measure import median_seconds, save, spelt
from torch import Tensor, nn
from torchvision.ops import box_iou

from rotanext.heads.anchors import V0
from rotanext.models.depthwise import DepthwiseConv
from rotanext.ops import assign_anchors, reference, rotated_iou, rotated_nms

SLOW = {"runs": 3, "seconds": 10.0}


def boxes(n: int, extent: float, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes with sides from 8 to 60 and any angle in a square, and scores."""
    rng = np.random.default_rng(seed)
    rows = [rng.uniform(0, extent, (n, 2)), rng.uniform(8, 60, (n, 2)), rng.uniform(-np.pi / 2, np.pi / 2, (n, 1))]
    return torch.from_numpy(np.concatenate(rows, 1)).float().to(device), torch.from_numpy(rng.random(n)).float().to(device)


def nms_rows(device: torch.device) -> list[list[str]]:
    """10,000 boxes beside the readable NMS, then equal density at other counts."""
    rows = []
    for n in (1_000, 10_000, 100_000):
        some, scores = boxes(n, 1024 * (n / 10_000) ** 0.5, device)
        functions = {"ours": partial(rotated_nms, some, scores, None, 0.1)}
        times = median_seconds(functions, 15)
        baseline = "-"
        if n <= 10_000:
            slow = median_seconds({"reference": partial(reference.rotated_nms, some, scores, None, 0.1)}, **SLOW)["reference"]
            assert torch.equal(functions["ours"](), reference.rotated_nms(some, scores, None, 0.1))
            baseline = f"readable {spelt(slow)} ({slow / times['ours']:.0f} x)"
        goal = {10_000: "15 ms" if device.type == "cpu" else "1 ms", 100_000: "150 ms"}.get(n, "")
        rows.append([f"NMS, {n:,} boxes, IoU 0.1", spelt(times["ours"]), goal, baseline])
    return rows


def iou_rows(device: torch.device) -> list[list[str]]:
    """The matrix beside torchvision's."""
    rows = []
    for n in (500, 2_000, 8_000):
        some, others = boxes(n, 1024, device)[0], boxes(n, 1024, device, 1)[0]
        functions = {"ours": partial(rotated_iou, some, others)}
        if n <= 2_000:
            degrees = [torch.cat([x[:, :4], x[:, 4:].rad2deg()], 1) for x in (some, others)]
            functions["torchvision"] = partial(box_iou, *degrees, fmt="cxcywhr")
        times = median_seconds(functions)
        baseline = (
            f"torchvision {spelt(times['torchvision'])} ({times['torchvision'] / times['ours']:.0f} x)" if n <= 2_000 else "-"
        )
        goal = {2_000: "30 ms" if device.type == "cpu" else "0.3 ms"}.get(n, "")
        rows.append([f"IoU matrix, {n:,} x {n:,}", spelt(times["ours"]), goal, baseline])
    return rows


def assignment_rows(device: torch.device) -> list[list[str]]:
    """All anchors of an image of 1024 x 1024 beside the readable rule."""
    sizes, rows = [(128, 128), (64, 64), (32, 32), (16, 16), (8, 8)], []
    anchors = torch.cat(V0.grid(sizes, device))
    assign = partial(assign_anchors, layout=V0.layout(sizes))
    for n in (100, 1_000, 5_000):
        objects = boxes(n, 1024, device)[0]
        times = median_seconds({"ours": partial(assign, anchors, objects)})
        baseline = "-"
        if n == 100:
            readable = partial(reference.assign_anchors, anchors, objects, 0.5, 0.4)
            assert torch.equal(assign(anchors, objects), readable())
            slow = median_seconds({"readable": readable}, **SLOW)["readable"]
            baseline = f"readable {spelt(slow)} ({slow / times['ours']:.0f} x)"
        goal = {100: "50 ms" if device.type == "cpu" else "1 ms", 5_000: "1 s"}.get(n, "")
        rows.append([f"assignment, {len(anchors):,} anchors x {n:,} objects", spelt(times["ours"]), goal, baseline])
    return rows


def depthwise_rows() -> list[list[str]]:
    """Backward pass of ConvNeXt-T's depthwise convolutions in training, a batch of two images, beside torch's own."""
    rows = []
    for size, channels, side in ((512, 96, 128), (512, 384, 32), (1024, 96, 256)):
        conv = DepthwiseConv(channels, 7)
        x = torch.randn(2, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
        inputs, upstream = [x, *conv.parameters()], torch.randn_like(x)
        outputs = {"ours": conv(x), "torch": nn.Conv2d.forward(conv, x)}
        functions = {name: partial(torch.autograd.grad, out, inputs, upstream, retain_graph=True) for name, out in outputs.items()}
        times = median_seconds(functions, 9)
        baseline = f"torch {spelt(times['torch'])} ({times['torch'] / times['ours']:.1f} x)"
        rows.append(
            [f"depthwise 7x7 backward, 2 x {channels} x {side} x {side} (images of {size})", spelt(times["ours"]), "", baseline]
        )
    return rows


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    rows = nms_rows(device) + iou_rows(device) + assignment_rows(device)
    rows += depthwise_rows() if device.type == "cpu" else []
    save(f"operators-{device.type}", "Rotated operators", ["work", "median", "goal", "baseline in the same process"], rows)


if __name__ == "__main__":
    main()
