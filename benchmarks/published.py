"""The network as toolboxes run it, for baselines: fp32, eager, every map NCHW in memory, so that norms and MLPs copy it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rotanext.models import convnext
from rotanext.models.convnext import Block


def _block(self: Block, x: Tensor) -> Tensor:
    y = self.act(self.pwconv1(self.norm(nn.Conv2d.forward(self.dwconv, x).permute(0, 2, 3, 1))))
    if self.grn is not None:
        y = self.grn(y)
    y = self.pwconv2(y)
    if self.gamma is not None:
        y = y * self.gamma
    return x + y.permute(0, 3, 1, 2).contiguous()


def _norm(x: Tensor, layer: nn.Module) -> Tensor:
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


@contextmanager
def as_published() -> Iterator[None]:
    """Within, every ConvNeXt computes so; its weights and batches are to be `torch.contiguous_format`."""
    with patch.object(Block, "forward", _block), patch.object(convnext, "norm_channels", _norm):
        yield


def published(network: nn.Module, batch: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and deltas of a network whose weights are `torch.contiguous_format`, without gradients."""
    with as_published(), torch.inference_mode():
        return network(batch.contiguous())
