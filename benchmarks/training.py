"""One training step: what it takes, how much of it targets and losses are, and torch's profile of it.

python benchmarks/training.py [--device cuda] [--size 512] [--batch 2] [--precision bf16]
"""

import argparse
from functools import partial

import torch
from measure import RESULTS, median_seconds, save, spelt
from operators import boxes
from torch.profiler import ProfilerActivity, profile

from rotanext.allocator import keep_freed_memory
from rotanext.config import load_config
from rotanext.criterion import batch_losses, make_targets
from rotanext.detector import build_model
from rotanext.optim import build_optimizer

RECIPE = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"
CLASSES, OBJECTS = 15, 70


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    device = torch.device(options.device)
    keep_freed_memory()  # as the command line does
    config = load_config(RECIPE, ["model.weights="])
    model = build_model(config, CLASSES).to(device).train()
    optimizer = build_optimizer(model, config.train, 1)
    batch = torch.randn(options.batch, 3, options.size, options.size, device=device).to(memory_format=torch.channels_last)
    truth = [boxes(OBJECTS, options.size, device, seed)[0] for seed in range(options.batch)]
    labels = [torch.arange(OBJECTS, device=device) % CLASSES for _ in truth]
    sizes = [(-(-options.size // stride),) * 2 for stride in (8, 16, 32, 64, 128)]
    rule = config.model.anchor_rule
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")

    def step() -> None:
        with mixed:
            logits, deltas = model(batch)
        losses = batch_losses(logits, deltas, make_targets(sizes, truth, labels, rule), CLASSES, config.loss.regression)
        ((losses.classification + config.loss.weight * losses.regression) / losses.positives.clamp_min(1)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with torch.no_grad(), mixed:
        outputs = [[x.float() for x in values] for values in model(batch)]
    logits, deltas = ([x.requires_grad_() for x in values] for values in outputs)
    targets = make_targets(sizes, truth, labels, rule)

    def losses() -> None:
        parts = batch_losses(logits, deltas, targets, CLASSES, config.loss.regression)
        (parts.classification + parts.regression).backward()

    works = {
        "whole step": step,
        "targets": partial(make_targets, sizes, truth, labels, rule),
        "losses, forward and backward": losses,
    }
    times = median_seconds(works, 5, 90)
    rows = [[name, spelt(seconds), f"{100 * seconds / times['whole step']:.1f} %"] for name, seconds in times.items()]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        rows.append(["most memory", f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB", ""])
    title = f"Training step, ConvNeXt-T, {options.batch} x {options.size} x {options.size}, {options.precision}"
    save(f"training-{device.type}", title, ["work", "median", "share"], rows, "Goal: targets and losses together at most 5 %.")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        step()
    table = profiled.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=20, max_name_column_width=50)
    (RESULTS / f"training-{device.type}-profile.txt").write_text(table)


if __name__ == "__main__":
    main()
