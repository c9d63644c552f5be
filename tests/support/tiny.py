"""A data set, a configuration and what commands leave, small enough for a test."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from networks import FAMILIES
from rotanext.config import Config, load_config
from rotanext.data.dota import write_objects
from rotanext.images.reading import write_png
from rotanext.objects import Objects
from rotanext.training.state import State, newest_state

TINY = (
    "neck.channels=8", "head.stacked_convs=1", "data.image_size=64", "predict.image_size=64", "data.workers=0",
    "train.batch_size=2", "train.epochs=1", "train.warmup_steps=0",
)  # fmt: skip
# How other families than the demo's own are trained.
PLAIN = (
    "train.optimizer=adamw", "train.lr=0.001", "train.betas=[0.9, 0.98]", "train.clip_norm=10.0", "train.ema=0.995",
    "backbone.layer_scale=1e-6",
)  # fmt: skip


def draw_dataset(root: Path, count: int, seed: int = 0) -> Path:
    """A DOTA folder of 64 x 64 images, each with a long red plane and a short blue ship at any angle."""
    rng = np.random.default_rng(seed)
    for name in ("images", "labelTxt"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        image = rng.integers(60, 90, (64, 64, 3)).astype(np.uint8)
        corners = []
        for x, size, colour in ((18, (24, 8), (230, 40, 40)), (46, (14, 12), (40, 40, 230))):
            angle = rng.uniform(-1.5, 1.5)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            corners.append(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * size @ turn.T + (x, rng.uniform(18, 46)))
            cv2.fillPoly(image, [np.rint(corners[-1]).astype(np.int32)], colour)
        write_png(root / f"images/p{index}.png", image)
        write_objects(root / f"labelTxt/p{index}.txt", Objects(np.array(corners), ["plane", "ship"], np.zeros(2, np.int64)))
    return root


def tiny_config(train: Path, val: Path | None = None, *overrides: str, family: str = "retina") -> Config:
    """A detector of a family made small enough for a test; images of `draw_dataset` give half as many steps an epoch."""
    folders = [f'data.train=["{train}"]', f'data.val=["{val}"]' if val else "data.val=[]"]
    plain = () if family == "aligned" else PLAIN
    return load_config("demo", [*FAMILIES[family], *plain, *TINY, *folders, *overrides])


def read_state(run: Path) -> State:
    """The newest state of a training, which must be whole."""
    return newest_state(run, pytest.fail)


class Outcome(NamedTuple):
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str
