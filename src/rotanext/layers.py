"""Layers that backbones, necks and heads share: batch norm, and convolutions that are followed by it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, but with its stored statistics where there are fewer than two values of a channel to take them from.

    That is a batch without images, and a single small one whose coarsest map is one position; torch refuses the latter.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def folded(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """One convolution, with bias, for a convolution and the batch norm behind it, in evaluation mode."""
    made: nn.Conv2d = fuse_conv_bn_eval(conv, norm)
    return made


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm, SiLU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv: nn.Module = conv
        self.bn: nn.Module = BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, K, h, w]`, as the convolution's stride has it."""
        # in place where nobody looks back: while training torch would keep a copy of what is overwritten
        return F.silu(self.bn(self.conv(x)), inplace=not torch.is_grad_enabled())

    def fold_norms(self) -> None:
        """Put the batch norm into the convolution; for detection alone. See `models.fast`."""
        if isinstance(self.conv, nn.Conv2d) and isinstance(self.bn, nn.modules.batchnorm._BatchNorm):
            self.conv, self.bn = folded(self.conv, self.bn), nn.Identity()


def conv_norm(in_channels: int, out_channels: int, size: int = 1, stride: int = 1) -> ConvNorm:
    """`ConvNorm` of an odd size; maps keep theirs, but for the stride."""
    return ConvNorm(nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False))
