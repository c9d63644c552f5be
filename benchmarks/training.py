"""One training step: what it takes beside the plain network's, what targets and losses are of it, and torch's profile of it.

python benchmarks/training.py [--device cuda] [--size 512] [--batch 2] [--precision bf16]
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median

import torch
from measure import RESULTS, median_seconds, save, spelt
from operators import boxes
from published import as_published
from torch.profiler import ProfilerActivity, profile

from rotanext.config import load_config
from rotanext.heads.contract import Losses, Raw, Targets
from rotanext.inference.detector import build_network
from rotanext.system.allocator import keep_freed_memory
from rotanext.training.optimizer import build_optimizer

RECIPE = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"
CLASSES, OBJECTS = 15, 70
OURS, PLAIN = "whole step", "the same, fp32, NCHW, eager, torch's gradients"


class Work:
    """A model, its optimiser and a batch with its objects."""

    def __init__(self, options: argparse.Namespace, plain: bool = False, *overrides: str) -> None:
        self.device = torch.device(options.device)
        self.config = load_config(RECIPE, ["backbone.weights=", *overrides])
        layout = torch.contiguous_format if plain else torch.channels_last
        self.model = build_network(self.config, CLASSES).to(self.device, memory_format=layout).train()
        self.optimizer = build_optimizer(self.model, self.config.train, 1)
        self.batch = torch.randn(options.batch, 3, options.size, options.size, device=self.device).to(memory_format=layout)
        truth = [boxes(OBJECTS, options.size, self.device, seed)[0] for seed in range(options.batch)]
        self.targets = Targets(truth, [torch.arange(OBJECTS, device=self.device) % CLASSES for _ in truth])
        self.sizes = self.config.neck.level_sizes(options.size, options.size)
        low = options.precision != "fp32" and not plain
        self.mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=low)
        self.style = as_published if plain else nullcontext

    def step(self) -> None:
        """Forward, targets, losses, backward, optimiser."""
        with self.mixed, self.style():
            raw = self.model(self.batch)
        total(self.model.head.losses(raw, self.targets)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def parts(self) -> dict[str, Callable[[], object]]:
        """Targets alone; losses alone, forward and backward."""
        with torch.no_grad(), self.mixed:
            outputs = [[x.float() for x in values] for values in self.model(self.batch)]
        raw = Raw(*([x.requires_grad_() for x in values] for values in outputs))
        head = self.model.head

        def losses() -> None:
            total(head.losses(raw, self.targets)).backward()

        return {"targets": partial(head.assign, self.sizes, self.targets), "targets and losses, forward and backward": losses}


def total(losses: Losses) -> torch.Tensor:
    """The loss of one process."""
    return torch.stack([term.factor * term.sum / term.weight.clamp_min(1) for term in losses.terms.values()]).sum()


def memory_rows(options: argparse.Namespace) -> list[list[str]]:
    """The most a step allocates on the GPU, with and without recomputing blocks."""
    rows = []
    for name, override in (("", "false"), (", gradient checkpointing", "true")):
        work = Work(options, False, f"backbone.gradient_checkpointing={override}")
        work.step()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work.step()
        rows.append([f"most memory{name}", f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB", "", "goal 4.0 GB for 2 x 1024"])
        del work
    return rows


def allocator_rows(options: argparse.Namespace) -> list[list[str]]:
    """The step in processes that keep freed memory, as training does, and in others that do not, in turn."""
    taken: dict[str, list[float]] = {"keep": [], "return": []}
    for _ in range(3):
        for name, values in taken.items():
            command = [sys.executable, __file__, "--size", f"{options.size}", "--batch", f"{options.batch}", "--memory", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            values.append(float(done.stdout.splitlines()[-1]))
    kept, returned = median(taken["keep"]), median(taken["return"])
    return [["whole step, freed memory returned to the system", spelt(returned), "", f"{returned / kept:.2f} of keeping it"]]


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--memory", choices=["keep", "return"])
    options = parser.parse_args()
    if options.memory != "return":
        keep_freed_memory()
    work = Work(options)
    if options.memory:
        print(median_seconds({"step": work.step}, 5)["step"])
        return
    plain = Work(options, plain=True)
    works = {OURS: work.step, PLAIN: plain.step, **work.parts()}
    times = median_seconds(works, 5, 120)
    whole = times[OURS]
    rows = [
        [name, spelt(t), f"{options.batch / t:.3g} images/s" if name in (OURS, PLAIN) else "", f"{t / whole:.3f}"]
        for name, t in times.items()
    ]
    del plain, works
    rows += memory_rows(options) if work.device.type == "cuda" else allocator_rows(options)
    title = f"Training step, ConvNeXt-T, {options.batch} x {options.size} x {options.size}, {options.precision}"
    name = f"training-{work.device.type}" + (f"-{options.batch}" if work.device.type == "cuda" else "")
    header = ["work", "median", "rate", "of the whole step"]
    save(name, title, header, rows, "Goal: targets and losses together at most 0.05.")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if work.device.type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        work.step()
    table = profiled.key_averages().table(sort_by=f"self_{work.device.type}_time_total", row_limit=20, max_name_column_width=50)
    (RESULTS / f"{name}-profile.txt").write_text(table)


if __name__ == "__main__":
    main()
