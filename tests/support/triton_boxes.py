"""Boxes for the tests of Triton's kernels, on a GPU where there is one; else conftest.py asks for Triton's interpreter."""

import numpy as np
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_boxes(n: int, seed: int, extent: float = 60.0, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(np.log(2), np.log(40), (n, 2)))
    boxes = np.concatenate([rng.uniform(0, extent, (n, 2)), sizes, rng.uniform(-4, 4, (n, 1))], 1)
    return torch.from_numpy(boxes).to(DEVICE, dtype)


def awkward_boxes() -> Tensor:
    rows = [
        [10, 10, 8, 4, 0.3], [10, 10, 8, 4, 0.3], [10, 10, 4, 8, 0.3 + np.pi / 2], [10, 10, 8, 4, 0.3 + 1e-7], [14, 10, 8, 4, 0.0],
        [18, 10, 8, 4, 0.0], [10, 10, 0, 4, 0.3], [10, 10, -3, 4, 0.3], [float("nan"), 10, 8, 4, 0], [10, 10, float("inf"), 4, 0],
        [10, 10, 8, 4, float("nan")], [1e30, 10, 8, 4, 0], [10, 10, 1e-3, 40, 1.1], [10, 10, 1e5, 1e5, 0.7], [1e6, 1e6, 9, 5, 0.1],
    ]  # fmt: skip
    return torch.tensor(rows, dtype=torch.float32, device=DEVICE)
