"""Scoring by the DOTA protocol, all ten thresholds at once: the size of a validation set, and a large archive.

python benchmarks/evaluation.py
"""

import resource
from functools import partial

import numpy as np
import torch
from measure import median_seconds, save, spelt

from rotanext.boxes import boxes_to_corners
from rotanext.evaluation.metrics import Predictions, Truths, evaluate


def made_up(images: int, objects: int, detections: int, extent: float, classes: int = 15) -> tuple[Predictions, Truths]:
    """Objects at random, and detections: most near an object, the others anywhere."""
    rng = np.random.default_rng(0)
    centres, sides = rng.uniform(0, extent, (objects, 2)), np.exp(rng.uniform(np.log(8), np.log(80), (objects, 2)))
    boxes = np.concatenate([centres, sides, rng.uniform(-1.5, 1.5, (objects, 1))], 1)
    labels, where = rng.integers(0, classes, objects), rng.integers(0, images, objects)
    chosen = rng.integers(0, objects, detections)
    found = boxes[chosen] + rng.normal(0, 1, (detections, 5)) * (3, 3, 3, 3, 0.1)
    found[:, 2:4] = np.maximum(found[:, 2:4], 2)
    stray = rng.random(detections) < 0.4
    found[stray, :2] = rng.uniform(0, extent, (stray.sum(), 2))
    corners = [boxes_to_corners(torch.from_numpy(x)).numpy() for x in (found, boxes)]
    predictions = Predictions(where[chosen], corners[0], rng.random(detections), labels[chosen])
    return predictions, Truths(images, where, corners[1], labels, rng.random(objects) < 0.05)


def main() -> None:
    """Measure and save."""
    names, rows = [f"class{k}" for k in range(15)], []
    for title, arguments, goal in (
        ("100 tiles, 7,000 objects, 36,000 detections", (100, 7_000, 36_000, 1024.0), "0.5 s"),
        ("1,000 images, 200,000 objects, 500,000 detections", (1_000, 200_000, 500_000, 8192.0), "60 s, 2 GB"),
    ):
        data = made_up(*arguments)
        seconds = median_seconds({"all": partial(evaluate, *data, names)}, 5, 60)["all"]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append([title, spelt(seconds), f"{memory:.2f} GB", goal])
    save("evaluation", "Evaluation, ten IoU thresholds", ["work", "median", "most memory of the process", "goal"], rows)


if __name__ == "__main__":
    main()
