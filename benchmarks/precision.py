"""How well a detector's bf16 and fp16 detections agree with its fp32 ones: same class, IoU above 0.9.

python benchmarks/precision.py --weights runs/demo/last.safetensors runs/boxes/last.safetensors \\
    --source runs/demo/data/val/images ../shared/data/boxes/valid/images [--device cuda]

On a CPU without bf16 arithmetic torch emulates it: results are right, and slow.
"""

import argparse
from pathlib import Path

import torch
from measure import save

from rotanext.detections import Detections
from rotanext.images.reading import list_images, read_image
from rotanext.load import load_detector
from rotanext.ops import rotated_iou

LEAST_SCORE, LEAST_IOU, SCORE_ROOM = 0.5, 0.9, 0.05


def agreeing(exact: Detections, other: Detections) -> tuple[int, int]:
    """How many of the detections above 0.5 have a partner of their class with IoU above 0.9, and how many there are.

    A partner's score may have fallen a little below 0.5 itself.
    """
    sure, other = exact.scores > LEAST_SCORE, other.above(LEAST_SCORE - SCORE_ROOM)
    same = exact.labels[sure][:, None] == other.labels
    overlap = rotated_iou(exact.boxes[sure], other.boxes)
    return int(((overlap > LEAST_IOU) & same).any(1).sum()), int(sure.sum())


def share(found: list[Detections], others: list[Detections]) -> str:
    """Agreement over all images."""
    pairs = [agreeing(a, b) for a, b in zip(found, others, strict=True)]
    same, count = (sum(values) for values in zip(*pairs, strict=True))
    return f"{same} of {count}, {100 * same / count:.2f} %" if count else "nothing above the score"


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", nargs="+", type=Path, required=True)
    parser.add_argument("--source", nargs="+", required=True, help="images for each of the weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", nargs="+", type=int, help="at most so many for each of the weights")
    options = parser.parse_args()
    rows = []
    for weights, source, most in zip(options.weights, options.source, options.images or [100] * len(options.source), strict=True):
        images = [read_image(path) for path in list_images(source)[:most]]
        exact = load_detector(weights, options.device)
        expected = [exact(image) for image in images]
        for precision in ("bf16", "fp16"):
            detector = load_detector(weights, options.device, precision=precision)
            # the same network without suppression: were the boxes found, and others kept in their places?
            unsuppressed = detector.reconfigured(iou_threshold=1.0, merge_iou=1.0, max_detections=100_000)
            vars(unsuppressed)["network"] = detector.network
            found = [detector(image) for image in images]
            candidates = [unsuppressed(image) for image in images]
            shares = share(expected, found), share(found, expected), share(expected, candidates)
            rows.append([f"{weights.parent.name}, {len(images)} images, {precision}", *shares])
    title = f"Detections above {LEAST_SCORE} that fp32 and a lower precision share (same class, IoU > {LEAST_IOU})"
    header = ["model, images, precision", "fp32's found in it", "its found in fp32", "fp32's among its boxes before suppression"]
    save(f"precision-{torch.device(options.device).type}", title, header, rows, "Goal: 99 %.")


if __name__ == "__main__":
    main()
