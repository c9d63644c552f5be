"""Timing functions side by side in one process, and keeping the tables.

Machines are noisy: functions that are compared run in turn, each several times, and the median counts.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

from rotanext.system.facts import commit, hardware, package_version

RESULTS = Path(__file__).parent / "results"


def median_seconds(
    functions: Mapping[str, Callable[[], Any]], runs: int = 7, seconds: float = 30.0, least: bool = False
) -> dict[str, float]:
    """Median (or least) seconds of each function: one call to warm up, then up to `runs` rounds of all, until the time is spent."""
    for function in functions.values():
        function()
    _wait()
    taken: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for _ in range(runs):
        for name, function in functions.items():
            _wait()
            begun = time.perf_counter()
            function()
            _wait()
            taken[name].append(time.perf_counter() - begun)
        if time.perf_counter() - start > seconds:
            break
    return {name: min(values) if least else statistics.median(values) for name, values in taken.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spelt(seconds: float) -> str:
    """Three digits in a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def save(name: str, title: str, header: list[str], rows: list[list[str]], note: str = "") -> None:
    """Print a table, and write it to results/`name`.md with date, hardware, versions and commit."""
    packages = ", ".join(f"{package} {package_version(package)}" for package in ("torch", "torchvision", "numba", "numpy"))
    lines = [f"# {title}", "", f"{date.today()}; {hardware()}; Python {platform.python_version()}, {packages};", ""]
    lines[2] += f" commit {commit() or 'unknown'}"
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    text = "\n".join(lines + (["", note] if note else [])) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
