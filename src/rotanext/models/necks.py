"""Necks: maps of equal width at several strides from the backbone's maps.

A neck's section tells `channels`, `strides` and `level_sizes(height, width)` of its maps, and builds the module, whose `first` is
the finest of the backbone's four maps that it uses. The feature pyramid gives five maps from the last three (Lin et al.,
arXiv:1612.03144; P6 and P7 of RetinaNet, arXiv:1708.02002).
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rotanext.section import Section

SIZE_DIVISOR = 32  # a batch's height and width are multiples of it: the stride of the backbone's last map


class FPNConfig(Section):
    """The feature pyramid."""

    kind: Literal["fpn"]  # feature pyramid
    channels: Annotated[int, Field(ge=1, le=8192, strict=True)]  # of every map

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the maps in pixels, finest first."""
        return (8, 16, 32, 64, 128)

    def build(self, in_channels: list[int]) -> "FPN":
        """The pyramid on a backbone's maps of so many channels, at strides 4, 8, 16 and 32."""
        return FPN(in_channels[FPN.first :], self.channels)

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each level's map for images of that size in pixels, filled up to a multiple of 32."""
        sizes: list[tuple[int, int]] = []
        for stride in self.strides:
            if stride <= SIZE_DIVISOR:
                rows, columns = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR // stride for side in (height, width))
            else:  # a convolution of stride 2 on the level before
                rows, columns = ((side + 1) // 2 for side in sizes[-1])
            sizes.append((rows, columns))
        return sizes


# With a second neck: Annotated[FPNConfig | OtherConfig, Field(discriminator="kind")]
NeckConfig = FPNConfig


class FPN(nn.Module):
    """Maps at strides 8 to 128 from backbone maps at strides 8, 16 and 32.

    The two coarsest come from stride-2 convolutions, the first on the backbone's last map, the second on the first's output.
    """

    first = 1  # the finest of the backbone's four maps that is used

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
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
        pyramid.append(self.extra[1](pyramid[-1]))
        return pyramid
