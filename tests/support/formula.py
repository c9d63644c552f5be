"""Deterministic weights, images and boxes for the golden files: the same on every machine and library version.

The golden files hold only names, shapes and reference outputs; these functions rebuild the inputs.
NumPy's legacy RandomState is used because its streams are frozen.
"""

import functools
import json
import zlib

import numpy as np
import torch
from torch import Tensor

import formula
from places import GOLDEN


def weight(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """One parameter or buffer, float32 (int64 for BatchNorm's counter), from its name and shape alone."""
    rng = np.random.RandomState(zlib.crc32((salt + name).encode()) & 0x7FFFFFFF)
    z = rng.standard_normal(tuple(shape)) if len(shape) else rng.standard_normal(())
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    if leaf == "running_var":
        v = 1.0 + 0.1 * np.abs(z)
    elif leaf == "running_mean":
        v = 0.1 * z
    elif leaf == "gamma":
        v = 0.5 + 0.05 * z
    elif leaf == "weight" and name.endswith("bn3.weight"):
        v = 0.2 + 0.02 * z
    elif "retina_cls" in name:
        v = z * np.sqrt(1.0 / np.prod(shape[1:])) if leaf == "weight" else -2.0 + 0.3 * z
    elif "retina_reg" in name:
        v = 0.3 * z * np.sqrt(1.0 / np.prod(shape[1:])) if leaf == "weight" else 0.02 * z
    elif name.startswith("neck.") and leaf == "weight":
        v = 0.5 * z * np.sqrt(1.0 / np.prod(shape[1:]))
    elif len(shape) >= 2:
        v = z * np.sqrt(2.0 / int(np.prod(shape[1:])))
    elif leaf == "bias":
        v = 0.05 * z
    else:
        v = 1.0 + 0.1 * z
    return np.asarray(v, dtype=np.float32)


def state_dict(shapes: dict[str, list[int]], salt: str = "") -> dict[str, np.ndarray]:
    """A whole state dict under the reference's parameter names."""
    return {name: weight(name, tuple(shape), salt) for name, shape in shapes.items()}


def image(seed: int, height: int, width: int) -> np.ndarray:
    """RGB uint8 [height, width, 3]: 16-pixel blocks of seeded noise over a ramp, integer arithmetic only."""
    rng = np.random.RandomState(seed)
    blocks = rng.randint(0, 200, (-(-height // 16), -(-width // 16), 3))
    pixels = np.repeat(np.repeat(blocks, 16, 0), 16, 1)[:height, :width]
    ramp = (np.arange(width)[None, :, None] + np.arange(height)[:, None, None]) * 55 // (height + width)
    return (pixels + ramp).astype(np.uint8)


def ground_truth(seed: int, n: int, height: int, width: int, num_classes: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """[n, 5] float32 boxes (cx, cy, width, height, angle in radians, le90) and [n] int64 labels."""
    rng = np.random.RandomState(seed)
    b = np.stack(
        [
            rng.uniform(20, width - 20, n),
            rng.uniform(20, height - 20, n),
            rng.uniform(12, 180, n),
            rng.uniform(8, 60, n),
            rng.uniform(-np.pi / 2, np.pi / 2, n),
        ],
        1,
    )
    swap = b[:, 2] < b[:, 3]
    b[swap] = b[swap][:, [0, 1, 3, 2, 4]] + [0, 0, 0, 0, np.pi / 2]
    b[:, 4] = (b[:, 4] + np.pi / 2) % np.pi - np.pi / 2
    return b.astype(np.float32), rng.randint(0, num_classes, n)


@functools.cache
def golden_weights(file: str) -> dict[str, Tensor]:
    golden = json.loads((GOLDEN / file).read_text())
    weights = formula.state_dict(golden.get("shapes", golden), golden.get("salt", ""))
    return {name: torch.from_numpy(value) for name, value in weights.items()}
