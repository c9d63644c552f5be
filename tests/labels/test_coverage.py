"""How well priors fit a set's objects, and the advice where they do not."""

import numpy as np
import torch

from rotanext.heads.anchors import AnchorRule
from rotanext.heads.reach import best_iou
from rotanext.ops import rotated_iou


def test_coverage_is_that_of_the_whole_grid() -> None:
    """The best of a few anchors around an object is the best of all of them."""
    rng = np.random.default_rng(0)
    sides = 8 * 2 ** rng.uniform(0, 4, (60, 2))
    values = np.column_stack([rng.uniform(40, 216, (60, 2)), sides.max(1), sides.min(1), rng.uniform(-1.57, 1.57, 60)])
    boxes = torch.tensor(values, dtype=torch.float32)
    for rule in (AnchorRule(), AnchorRule("v1", 2.0, 2, (1.0, 0.3, 3.0))):
        grid = torch.cat(rule.grid([(256 // s + 4, 256 // s + 4) for s in (8, 16, 32, 64, 128)]))
        whole = rotated_iou(boxes, grid).amax(1)
        assert (best_iou(boxes, rule) - whole).abs().max() < 1e-6
