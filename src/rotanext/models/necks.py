"""Necks: maps of equal width at several strides from the backbone's maps.

A neck's section tells `channels`, `strides` and `level_sizes(height, width)` of its maps, and builds the module, whose `first` is
the finest of the backbone's four maps that it uses. The feature pyramid gives five maps from the last three (Lin et al.,
arXiv:1612.03144; P6 and P7 of RetinaNet, arXiv:1708.02002); the path aggregation of RTMDet three (arXiv:1803.01534, 2212.07784).
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rotanext.layers import conv_norm
from rotanext.models.cspnext import CSPLayer
from rotanext.section import Section

SIZE_DIVISOR = 32  # a batch's height and width are multiples of it: the stride of the backbone's last map


def level_sizes(strides: tuple[int, ...], height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of each level's map for images of that size in pixels, filled up to a multiple of 32.

    Levels up to stride 32 come from the backbone's maps; of the others each is a convolution of stride 2 on the one before.
    """
    sizes: list[tuple[int, int]] = []
    for stride in strides:
        if stride <= SIZE_DIVISOR:
            rows, columns = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR // stride for side in (height, width))
        else:
            rows, columns = ((side + 1) // 2 for side in sizes[-1])
        sizes.append((rows, columns))
    return sizes


class FPNConfig(Section):
    """The feature pyramid."""

    kind: Literal["fpn", "fpn-relu"]  # feature pyramid; fpn-relu: with a ReLU before its coarsest map, as torchvision has it
    channels: Annotated[int, Field(ge=1, le=8192, strict=True)]  # of every map

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the maps in pixels, finest first."""
        return (8, 16, 32, 64, 128)

    def build(self, in_channels: list[int]) -> "FPN":
        """The pyramid on a backbone's maps of so many channels, at strides 4, 8, 16 and 32."""
        return FPN(in_channels[FPN.first :], self.channels, self.kind == "fpn-relu")

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each level's map for images of that size in pixels, filled up to a multiple of 32."""
        return level_sizes(self.strides, height, width)


class PAFPNConfig(Section):
    """The feature pyramid with a way back up, of the blocks of CSPNeXt."""

    kind: Literal["pafpn"]  # path aggregation, with blocks of CSPNeXt
    channels: Annotated[int, Field(ge=1, le=8192, strict=True)]  # of every map
    blocks: Annotated[int, Field(ge=1, le=64, strict=True)]  # of each of its four layers

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the maps in pixels, finest first."""
        return (8, 16, 32)

    def build(self, in_channels: list[int]) -> "PAFPN":
        """The neck on a backbone's maps of so many channels, at strides 4, 8, 16 and 32."""
        return PAFPN(in_channels[PAFPN.first :], self.channels, self.blocks)

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each level's map for images of that size in pixels, filled up to a multiple of 32."""
        return level_sizes(self.strides, height, width)


class PANetConfig(Section):
    """The feature pyramid with a way back up, of single convolutions with batch norms."""

    kind: Literal["panet"]  # path aggregation by additions
    channels: Annotated[int, Field(ge=1, le=8192, strict=True)]  # of every map

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the maps in pixels, finest first."""
        return (8, 16, 32)

    def build(self, in_channels: list[int]) -> "PANet":
        """The neck on a backbone's maps of so many channels, at strides 4, 8, 16 and 32."""
        return PANet(in_channels[PANet.first :], self.channels)

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each level's map for images of that size in pixels, filled up to a multiple of 32."""
        return level_sizes(self.strides, height, width)


NeckConfig = Annotated[FPNConfig | PAFPNConfig | PANetConfig, Field(discriminator="kind")]


class FPN(nn.Module):
    """Maps at strides 8 to 128 from backbone maps at strides 8, 16 and 32.

    The two coarsest come from stride-2 convolutions, the first on the backbone's last map, the second on the first's output.
    """

    first = 1  # the finest of the backbone's four maps that is used

    def __init__(self, in_channels: list[int], channels: int, relu: bool = False) -> None:
        super().__init__()
        self.relu = relu  # before the coarsest map
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.extra = nn.ModuleList(nn.Conv2d(c, channels, 3, stride=2, padding=1) for c in (in_channels[-1], channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """`[B, C_i, H / s, W / s]` at strides 8, 16, 32 to five maps `[B, channels, H / s, W / s]` at strides 8 to 128."""
        merged = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        pyramid = [output(m) for output, m in zip(self.output, merged, strict=True)]
        pyramid.append(self.extra[0](maps[-1]))
        pyramid.append(self.extra[1](F.relu(pyramid[-1]) if self.relu else pyramid[-1]))
        return pyramid


class PAFPN(nn.Module):
    """Maps at strides 8, 16 and 32: coarse maps are merged into finer ones, and these again into coarser ones.

    Inside each map has the channels of the backbone's, and comes from a CSP layer on two maps side by side.
    """

    first = 1  # the finest of the backbone's four maps that is used

    def __init__(self, in_channels: list[int], channels: int, blocks: int) -> None:
        super().__init__()
        finer = list(zip(in_channels[:0:-1], in_channels[-2::-1], strict=True))  # (coarse, fine), coarsest first
        coarser = list(pairwise(in_channels))
        self.reduce_layers = nn.ModuleList(conv_norm(coarse, fine) for coarse, fine in finer)
        self.top_down_blocks = nn.ModuleList(CSPLayer(2 * fine, fine, blocks, False, None) for _, fine in finer)
        self.downsamples = nn.ModuleList(conv_norm(fine, fine, 3, 2) for fine, _ in coarser)
        self.bottom_up_blocks = nn.ModuleList(CSPLayer(2 * fine, coarse, blocks, False, None) for fine, coarse in coarser)
        self.out_convs = nn.ModuleList(conv_norm(c, channels, 3) for c in in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """`[B, C_i, H / s, W / s]` at strides 8, 16, 32 to maps `[B, channels, H / s, W / s]` at the same."""
        top, reduced = maps[-1], []
        for finer, reduce, block in zip(maps[-2::-1], self.reduce_layers, self.top_down_blocks, strict=True):
            reduced.append(reduce(top))
            wide = F.interpolate(reduced[-1], size=finer.shape[-2:], mode="nearest")
            top = block(torch.cat([wide, finer], 1))
        merged = [top]
        for same, down, block in zip(reversed(reduced), self.downsamples, self.bottom_up_blocks, strict=True):
            merged.append(block(torch.cat([down(merged[-1]), same], 1)))
        return [conv(m) for conv, m in zip(self.out_convs, merged, strict=True)]


class PANet(nn.Module):
    """Maps at strides 8, 16 and 32, all of equal width: coarse ones are added to finer ones, and these to coarser ones again.

    PANet (arXiv:1803.01534) with a batch norm and SiLU behind every convolution. The backbone's map at stride 4 is added to the
    finest, by a convolution of stride 2: where small objects lie is told there best, and a level of stride 4 costs far more.
    """

    first = 0  # the finest of the backbone's four maps that is used

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        finest, *others = in_channels
        self.detail = conv_norm(finest, channels, 3, 2)
        self.lateral = nn.ModuleList(conv_norm(c, channels) for c in others)
        self.output = nn.ModuleList(conv_norm(channels, channels, 3) for _ in others)
        self.down = nn.ModuleList(conv_norm(channels, channels, 3, 2) for _ in others[1:])
        self.merged = nn.ModuleList(conv_norm(channels, channels, 3) for _ in others[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """`[B, C_i, H / s, W / s]` at strides 4, 8, 16, 32 to maps `[B, channels, H / s, W / s]` at strides 8, 16, 32."""
        sums = [lateral(m) for lateral, m in zip(self.lateral, maps[1:], strict=True)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + F.interpolate(sums[i], size=sums[i - 1].shape[-2:], mode="nearest")
        sums[0] = sums[0] + self.detail(maps[0])
        finest, *coarser = (output(m) for output, m in zip(self.output, sums, strict=True))
        pyramid = [finest]
        for level, down, merged in zip(coarser, self.down, self.merged, strict=True):
            pyramid.append(merged(level + down(pyramid[-1])))
        return pyramid
