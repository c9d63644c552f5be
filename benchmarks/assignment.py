"""RTMDet's dynamic assignment and the IoU loss: beside the readable operators, and how the cost grows.

python benchmarks/assignment.py [--device cuda]
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import median_seconds, save, spelt
from torch import Tensor

from rotanext.heads.losses import rotated_iou_loss
from rotanext.ops import assign_dynamic, reference

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))
from scenes import Scene, golden_scene

SLOW = {"runs": 3, "seconds": 20.0}
ROUNDS = {"runs": 40, "least": True}


def untrained(scene: Scene) -> Scene:
    """The same objects before training: boxes three strides wide around their points, scores near 0.01."""
    rng = np.random.default_rng(0)
    sides = 3 * scene.strides[:, None].numpy() * np.exp(rng.normal(0, 0.2, (len(scene.points), 2)))
    centres = scene.points.numpy() + rng.normal(0, 0.3, sides.shape) * scene.strides[:, None].numpy()
    boxes = np.concatenate([centres, sides, rng.normal(0, 0.1, (len(sides), 1))], 1)
    return scene._replace(boxes=torch.from_numpy(boxes).float(), logits=torch.full_like(scene.logits, -4.6))


def assignment_rows(device: torch.device) -> list[list[str]]:
    """All 21,504 points of an image of 1024 x 1024, with 15 classes."""
    rows = []
    for n, shortest, longest in ((100, 10, 80), (500, 8, 60), (2000, 8, 60), (2000, 20, 200)):
        trained = golden_scene(1, n, 1024, shortest, longest)
        for state, scene in (("trained", trained), ("untrained", untrained(trained))):
            there = Scene(*(values.to(device) for values in scene))
            taken = median_seconds({"ours": partial(assign_dynamic, *there)}, **ROUNDS)["ours"]
            baseline = "-"
            if n <= 500:
                rule = partial(reference.assign_dynamic, *there)
                assert torch.equal(assign_dynamic(*there)[0], rule()[0])
                slow = median_seconds({"readable": rule}, least=True, **SLOW)["readable"]
                baseline = f"readable {spelt(slow)} ({slow / taken:.0f} x)"
            goal = "60 ms" if n == 2000 and longest == 60 and device.type == "cpu" else ""
            positives = int((assign_dynamic(*there)[0] > 0).sum())
            work = f"{n:,} objects of {shortest} to {longest} pixels, {state}, {positives:,} positives"
            rows.append([work, spelt(taken), goal, baseline])
    return rows


def ours(found: Tensor, wanted: Tensor) -> None:
    """The loss and its gradient."""
    torch.autograd.grad(rotated_iou_loss(found, wanted).sum(), found)


def readable(found: Tensor, wanted: Tensor) -> None:
    """What is most of it, by the readable operators."""
    reference.rotated_iou_pairs(found, wanted)
    reference.iou_pairs_gradients(found, wanted, torch.ones_like(found[:, 0]), "iou")


def loss_rows(device: torch.device) -> list[list[str]]:
    """Forward and backward pass beside the readable IoU and gradients."""
    rows = []
    for n in (200, 2_000, 20_000):
        rng = np.random.default_rng(0)
        target = np.concatenate([rng.uniform(0, 1000, (n, 2)), rng.uniform(8, 60, (n, 2)), rng.uniform(-1.5, 1.5, (n, 1))], 1)
        pred = target + rng.normal(0, 1, (n, 5)) * [2, 2, 3, 3, 0.1]
        found, wanted = (torch.from_numpy(boxes).float().to(device) for boxes in (pred, target))
        slow = partial(readable, found.clone(), wanted)
        times = median_seconds({"ours": partial(ours, found.requires_grad_(), wanted), "readable": slow}, **ROUNDS)
        baseline = f"readable {spelt(times['readable'])} ({times['readable'] / times['ours']:.1f} x)"
        rows.append([f"IoU loss of {n:,} pairs, forward and backward", spelt(times["ours"]), "", baseline])
    return rows


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    note = "The least of up to 40 runs: other work may run on the machine, which medians would tell of."
    header = ["work", "least", "goal", "baseline in the same process"]
    save(f"assignment-{device.type}", "Dynamic assignment", header, assignment_rows(device) + loss_rows(device), note)


if __name__ == "__main__":
    main()
