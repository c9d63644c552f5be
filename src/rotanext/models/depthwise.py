"""Depthwise convolution whose gradient does not take longer than the rest of a block on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from rotanext.ops import compiled_in_place, depthwise_weight_gradient


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution of odd size (ValueError for others) that keeps the map's size.

    Its parameters are those of torch's `Conv2d`. While training in float32 on a CPU it is differentiable once, backwards, as the
    rotated operators are.
    """

    def __init__(self, channels: int, size: int, bias: bool = True) -> None:
        if size % 2 == 0:
            raise ValueError(f"the size is {size}; expected an odd one")
        super().__init__(channels, channels, size, padding=size // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        if self._has_own_gradient(x):
            result: Tensor = _Depthwise.apply(x, self.weight, self.bias)
            return result
        return super().forward(x)

    def _has_own_gradient(self, x: Tensor) -> bool:
        """Only while training in float32 on a CPU, and where there are numbers at hand: not while traced or compiled."""
        plain = type(x) is Tensor and x.dim() == 4 and x.dtype == self.weight.dtype == torch.float32 and compiled_in_place(x.device)
        return plain and torch.is_grad_enabled() and not (_traced() or torch.is_autocast_enabled("cpu"))


def _traced() -> bool:
    transformed = torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
    return transformed or torch.compiler.is_compiling() or torch.jit.is_tracing()


class _Depthwise(torch.autograd.Function):
    """torch's forward pass; backward, the maps' gradient is another such convolution, and the weights' is our kernel's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        size = weight.shape[-1]
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            return (
                F.conv2d(gradient, weight.flip(2, 3), padding=size // 2, groups=len(weight)) if wants_x else None,
                # with the weights' strides: DDP copies gradients whose strides are others, and says so
                depthwise_weight_gradient(x, gradient, size).as_strided(weight.shape, weight.stride()) if wants_weight else None,
                gradient.sum((0, 2, 3)) if wants_bias else None,
            )
