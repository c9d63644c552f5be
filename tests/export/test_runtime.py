"""Exported graphs as networks, and which options they take."""

import pytest
import torch

from rotanext.inference.detector import Detector


@pytest.mark.parametrize("size", [(1, 1), (32, 33), (100, 259), (1024, 1000)])
def test_level_sizes_are_the_networks(detector: Detector, size: tuple[int, int]) -> None:
    with torch.no_grad():
        batch = detector.model.prepare([torch.zeros(*size, 3, dtype=torch.uint8)])
        logits, _ = detector.model(batch)
    assert detector.config.neck.level_sizes(*size) == [tuple(level.shape[2:]) for level in logits]
