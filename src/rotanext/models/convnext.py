"""ConvNeXt V1 and V2 as a backbone with four normalised output maps, or as a classifier.

Papers: A ConvNet for the 2020s (arXiv 2201.03545); ConvNeXt V2 (arXiv 2301.00808).
Parameter names are those of the authors' files, so that published weights load without a map.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rotanext.models.depthwise import DepthwiseConv

EPS = 1e-6
STRIDES = (4, 8, 16, 32)


class Variant(NamedTuple):
    """Blocks and channels of the four stages; version 1 has layer scale, 2 global response normalisation."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    version: int


VARIANTS: dict[str, Variant] = {
    "convnext_zepto": Variant((2, 2, 4, 2), (32, 64, 128, 256), 1),
    "convnext_atto": Variant((2, 2, 6, 2), (40, 80, 160, 320), 1),
    "convnext_femto": Variant((2, 2, 6, 2), (48, 96, 192, 384), 1),
    "convnext_pico": Variant((2, 2, 6, 2), (64, 128, 256, 512), 1),
    "convnext_nano": Variant((2, 2, 8, 2), (80, 160, 320, 640), 1),
    "convnext_tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768), 1),
    "convnext_small": Variant((3, 3, 27, 3), (96, 192, 384, 768), 1),
    "convnext_base": Variant((3, 3, 27, 3), (128, 256, 512, 1024), 1),
    "convnext_large": Variant((3, 3, 27, 3), (192, 384, 768, 1536), 1),
    "convnext_xlarge": Variant((3, 3, 27, 3), (256, 512, 1024, 2048), 1),
    "convnextv2_atto": Variant((2, 2, 6, 2), (40, 80, 160, 320), 2),
    "convnextv2_femto": Variant((2, 2, 6, 2), (48, 96, 192, 384), 2),
    "convnextv2_pico": Variant((2, 2, 6, 2), (64, 128, 256, 512), 2),
    "convnextv2_nano": Variant((2, 2, 8, 2), (80, 160, 320, 640), 2),
    "convnextv2_tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768), 2),
    "convnextv2_base": Variant((3, 3, 27, 3), (128, 256, 512, 1024), 2),
    "convnextv2_large": Variant((3, 3, 27, 3), (192, 384, 768, 1536), 2),
    "convnextv2_huge": Variant((3, 3, 27, 3), (352, 704, 1408, 2816), 2),
}


def norm_channels(x: Tensor, norm: nn.Module) -> Tensor:
    """Normalise over the channels of [B, C, H, W]; the result is laid out channels-last, whatever the input was."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Zero whole samples of [B, ...] with probability `rate`, scale the others by 1 / (1 - rate) (arXiv 1603.09382)."""
    keep = 1.0 - rate
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * (mask / keep)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last dimension that stays in the low precision of autocast.

    CUDA's autocast takes it to float32, which keeps a float32 copy of every block's map for the backward pass. The statistics
    are summed in float32 all the same, within the kernel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` to the same, in autocast's type where that is on."""
        kind = x.device.type
        if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return super().forward(x)
        low = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            return F.layer_norm(x.to(low), self.normalized_shape, self.weight.to(low), self.bias.to(low), self.eps)


class GlobalResponseNorm(nn.Module):
    """Competition between channels by their L2 norm over the image, on [B, H, W, C] (arXiv 2301.00808)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # a sum of squares over a whole map leaves float16's range, so it is taken in float32
        energy = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)
        share = energy / (energy.mean(dim=-1, keepdim=True) + EPS)
        return x + self.gamma * (x * share.to(x.dtype)) + self.beta


class Block(nn.Module):
    """One residual block, [B, C, H, W] to the same: depthwise 7x7, LayerNorm, linear to 4C, GELU, linear to C."""

    def __init__(self, channels: int, version: int, layer_scale: float | None, drop_rate: float) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv(channels, 7)
        self.norm = LayerNorm(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.grn = GlobalResponseNorm(4 * channels) if version == 2 else None
        self.pwconv2 = nn.Linear(4 * channels, channels)
        scaled = version == 1 and layer_scale is not None
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale or 0.0))) if scaled else None
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)  # a view: the maps are channels-last from the stem on
        y = self.act(self.pwconv1(self.norm(y)))
        if self.grn is not None:
            y = self.grn(y)
        y = self.pwconv2(y)
        if self.gamma is not None:
            y = y * self.gamma
        if self.training and self.drop_rate > 0:
            y = drop_path(y, self.drop_rate)
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt of any size, as a backbone (`num_classes` 0, `forward`) or as a classifier (`classify`).

    `drop_path` is the last block's rate; it rises linearly from 0 at the first. `layer_scale` is the initial value of
    the branches' scale (V1 only; None leaves it out). `gradient_checkpointing` recomputes each block in the backward
    pass, for less memory. Raises KeyError for a name that is not in `VARIANTS`.
    """

    def __init__(
        self,
        variant: str,
        *,
        drop_path: float = 0.0,
        layer_scale: float | None = 1e-6,
        num_classes: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depths, widths, version = VARIANTS[variant]
        self.variant = variant
        self.gradient_checkpointing = gradient_checkpointing
        # the stem is convolution, norm; the others are norm, convolution
        self.downsample_layers = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(3, widths[0], kernel_size=4, stride=4), LayerNorm(widths[0])])]
        )
        for before, after in pairwise(widths):
            self.downsample_layers.append(nn.ModuleList([LayerNorm(before), nn.Conv2d(before, after, kernel_size=2, stride=2)]))
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            nn.ModuleList([Block(width, version, layer_scale, next(rates)) for _ in range(depth)])
            for depth, width in zip(depths, widths, strict=True)
        )
        if num_classes:
            self.norm = LayerNorm(widths[-1])
            self.head = nn.Linear(widths[-1], num_classes)
        else:
            self.norm0, self.norm1, self.norm2, self.norm3 = (LayerNorm(width) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return VARIANTS[self.variant].widths

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the four maps in input pixels."""
        return STRIDES

    def leave_out(self, maps: int) -> None:
        """Stop the training of the output norms of the finest `maps` maps, which nobody uses."""
        for norm in (self.norm0, self.norm1, self.norm2, self.norm3)[:maps]:
            norm.requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """The raw outputs of the four stages, [B, C_i, H / stride_i, W / stride_i], of images [B, 3, H, W]."""
        maps = []
        recompute = self.gradient_checkpointing and self.training
        for index in range(4):
            layers, blocks = self.downsample_layers[index], self.stages[index]
            first, second = layers.children()
            x = second(norm_channels(x, first)) if index else norm_channels(first(x), second)
            for block in blocks.children():
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps [B, C_i, H / stride_i, W / stride_i] at strides 4, 8, 16, 32, each through a LayerNorm of its own.

        `x` is [B, 3, H, W], normalised; sides that are no multiple of 32 lose their remainder. The maps are laid out
        channels-last.
        """
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        return [norm_channels(feature, norm) for feature, norm in zip(self.features(x), norms, strict=True)]

    def classify(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of normalised images [B, 3, H, W]; only of a model built with `num_classes`."""
        return self.head(self.norm(self.features(x)[-1].mean(dim=(2, 3))))
