"""Layers that backbones, necks and heads share: batch norm, and convolutions that are followed by it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, with two changes to what it does while training.

    It uses its stored statistics where there are fewer than two values of a channel to take them from: in a batch without images,
    and for a single small one whose coarsest map is one position, which torch refuses.

    On a CPU it takes the statistics of maps laid out channels-last with care: torch (2.15) adds them up one by one in float32,
    which is wrong by 1e-5 in each layer, and by 1e-3 of a map's deviation after those of a small RTMDet.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self._careful(x) if self._needs_care(x) else super().forward(x)

    def _needs_care(self, x: Tensor) -> bool:
        """Only while training in float32 on a CPU, and where there are numbers at hand: not while traced or compiled."""
        plain = self.training and type(x) is Tensor and x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if not plain or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()

    def _careful(self, x: Tensor) -> Tensor:
        result: Tensor
        result, mean, variance = _Careful.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                count, share = x.numel() / x.shape[1], self.momentum or 0.0
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / (count - 1)), share)
        return result


class _Careful(torch.autograd.Function):
    """Batch norm by the batch's own statistics, which come along; backward by torch's kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # a view; sums over its rows are taken pairwise
        mean = rows.mean(0)
        variance = (rows - mean).square_().mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.native_batch_norm_backward(gradient, x, weight, None, None, mean, scale, True, ctx.eps, wanted)
        return (*(value if asked else None for value, asked in zip(found, wanted, strict=True)), None)


def folded(conv: nn.Conv2d, norm: _BatchNorm) -> nn.Conv2d:
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
        if isinstance(self.conv, nn.Conv2d) and isinstance(self.bn, _BatchNorm):
            self.conv, self.bn = folded(self.conv, self.bn), nn.Identity()


def conv_norm(in_channels: int, out_channels: int, size: int = 1, stride: int = 1) -> ConvNorm:
    """`ConvNorm` of an odd size; maps keep theirs, but for the stride."""
    return ConvNorm(nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False))
