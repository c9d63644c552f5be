"""Winograd's convolution is the convolution; tests/models/test_fast.py has the networks that use it."""

import pytest
import torch
from torch import nn

from rotanext import ops


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (13, 7), (32, 3), (37, 50)])
@pytest.mark.parametrize("batch", [1, 3])
def test_winograd_is_the_convolution(height: int, width: int, batch: int, each_implementation: str) -> None:
    x, conv = torch.randn(batch, 40, height, width), nn.Conv2d(40, 33, 3, padding=1)
    expected = nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    with torch.no_grad():
        found = ops.winograd_convolution(x, ops.winograd_matrices(conv.weight), conv.bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_winograd_in_threads(pools: list[int]) -> None:
    x, conv = torch.randn(1, 32, 70, 90), nn.Conv2d(32, 32, 3, padding=1)
    found = ops.winograd_convolution(x, ops.winograd_matrices(conv.weight), conv.bias)
    torch.testing.assert_close(found, conv(x), rtol=0, atol=2e-5)
    assert 3 in pools
