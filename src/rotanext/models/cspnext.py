"""CSPNeXt, the backbone of RTMDet (arXiv:2212.07784): CSPDarknet's stages with 5x5 depthwise convolutions and channel attention.

Parameter names are those of the published files, so that these load without a map; only their first convolution, which takes BGR,
is turned on the way.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from rotanext.layers import ConvNorm, conv_norm
from rotanext.models.depthwise import DepthwiseConv

Style = Literal["mmdetection", "oriented-det"]  # whose: that of the published systems, or one that others have made of it
Gate = Callable[[Tensor], Tensor]  # what makes gains of numbers
STAGES = ((128, 3), (256, 6), (512, 6), (1024, 3))  # channels and blocks at factor 1


class Variant(NamedTuple):
    """What a size makes of the numbers of blocks and of channels."""

    depth: float
    width: float

    def blocks(self, count: int) -> int:
        """Blocks of a stage that has `count` at factor 1."""
        return max(round(count * self.depth), 1)

    def channels(self, count: int) -> int:
        """Channels of a map that has `count` at factor 1."""
        return int(count * self.width)


VARIANTS: dict[str, Variant] = {
    "cspnext_tiny": Variant(0.167, 0.375),
    "cspnext_s": Variant(0.33, 0.5),
    "cspnext_m": Variant(0.67, 0.75),
    "cspnext_l": Variant(1.0, 1.0),
}


class SeparableConv(nn.Module):
    """A depthwise 5x5 and a pointwise convolution, each with batch norm and SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = ConvNorm(DepthwiseConv(channels, 5, bias=False))
        self.pointwise_conv = conv_norm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        result: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return result


class Block(nn.Module):
    """A 3x3 and a separable 5x5 convolution, with or without their input added."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = conv_norm(channels, channels, 3)
        self.conv2 = SeparableConv(channels)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.residual else y


class ChannelAttention(nn.Module):
    """A gain per channel, from the means of all channels over the image."""

    def __init__(self, channels: int, gate: Gate) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        return x * self.gate(self.fc(x.mean((2, 3), keepdim=True)))


class CSPLayer(nn.Module):
    """Half of the channels through blocks, half past them (cross-stage partial, arXiv:1911.11929)."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, residual: bool, attention: Gate | None) -> None:
        super().__init__()
        half = out_channels // 2
        self.main_conv = conv_norm(in_channels, half)
        self.short_conv = conv_norm(in_channels, half)
        self.blocks = nn.Sequential(*(Block(half, residual) for _ in range(blocks)))
        self.attention = ChannelAttention(2 * half, attention) if attention else nn.Identity()
        self.final_conv = conv_norm(2 * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, K, H, W]`."""
        joined = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], 1)
        result: Tensor = self.final_conv(self.attention(joined))
        return result


class PyramidPooling(nn.Module):
    """The largest values within 5, 9 and 13 positions beside the map itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(channels, channels // 2)
        self.conv2 = conv_norm(4 * (channels // 2), channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        maps = [self.conv1(x)]
        for _ in range(3):  # two windows of 5, one after the other, are one of 9, and three are one of 13
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        result: Tensor = self.conv2(torch.cat(maps, 1))
        return result


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms do not take in what passes: it is computed for a second time."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # not by `track_running_stats`: then other tensors would be kept for the backward pass than the first time
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counter in before:
            norm.momentum, norm.num_batches_tracked = momentum, counter


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Where a module computes forward, and again in the backward pass."""
    return nullcontext(), _statistics_kept(module)


class CSPNeXt(nn.Module):
    """The backbone of any size: four maps at strides 4, 8, 16 and 32.

    In the style of oriented-det, gains are sigmoids, and blocks of the last stage have their input added like the others.
    `gradient_checkpointing` recomputes each layer of the stages in the backward pass, for less memory. Raises KeyError for a name
    that is not in `VARIANTS`.
    """

    def __init__(self, variant: str, *, style: Style = "mmdetection", gradient_checkpointing: bool = False) -> None:
        super().__init__()
        size, published = VARIANTS[variant], style == "mmdetection"
        gate = F.hardsigmoid if published else torch.sigmoid
        self.gradient_checkpointing = gradient_checkpointing
        self.channels = [size.channels(width) for width, _ in STAGES]
        stem = size.channels(64)
        self.stem = nn.Sequential(conv_norm(3, stem // 2, 3, 2), conv_norm(stem // 2, stem // 2, 3), conv_norm(stem // 2, stem, 3))
        before = stem
        for number, (channels, (_, blocks)) in enumerate(zip(self.channels, STAGES, strict=True), 1):
            is_last = number == len(STAGES)
            layers: list[nn.Module] = [conv_norm(before, channels, 3, 2)]
            layers += [PyramidPooling(channels)] if is_last else []
            layers.append(CSPLayer(channels, channels, size.blocks(blocks), not (is_last and published), gate))
            self.add_module(f"stage{number}", nn.Sequential(*layers))
            before = channels

    def leave_out(self, maps: int) -> None:
        """Nothing here belongs to one map alone."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s, W / s]` at strides 4, 8, 16, 32 of normalised images `[B, 3, H, W]`."""
        recompute = self.gradient_checkpointing and self.training
        x = self.stem(x)
        maps = []
        for number in range(1, len(STAGES) + 1):
            for layer in self.get_submodule(f"stage{number}").children():
                x = checkpoint(layer, x, use_reentrant=False, context_fn=partial(_contexts, layer)) if recompute else layer(x)
            maps.append(x)
        return maps
