"""Trainings of tests within their own process: starting, stopping, and trainers to call step by step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from rotanext.config import Config
from rotanext.data.dataset import Sample
from rotanext.errors import Problems
from rotanext.system.progress import Display
from rotanext.training.loop import Trainer
from rotanext.training.train import start_training

QUIET = Console(quiet=True)


def train(config: Config, folder: Path, resume: bool = False, strict: bool = True) -> Any:
    return start_training(config, folder, "cpu", Problems(strict), QUIET, resume=resume)


def make_trainer(config: Config, folder: Path, strict: bool = True, console: Console = QUIET) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(config, folder, "cpu", Problems(strict), Display(console))


def samples(trainer: Trainer, *indices: int) -> list[Sample]:
    return [trainer.loader.dataset[0, index] for index in indices]  # type: ignore[misc]


@contextmanager
def stopping_after(step: int) -> Iterator[None]:
    """Every training in here is asked to stop after that step, as by Ctrl-C."""
    plain = Trainer.train_step

    def stopping(self: Trainer, batches: list[list[Sample]]) -> dict[str, float]:
        row = plain(self, batches)
        self.stop = self.stop or self.progress.step >= step
        return row

    Trainer.train_step = stopping  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.train_step = plain  # type: ignore[method-assign]
