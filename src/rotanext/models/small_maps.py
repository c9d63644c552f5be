"""Convolutions on maps smaller than their kernel, whose weights' gradient torch leaves half unwritten on CPUs in low precision."""

import torch
from torch import Tensor, nn

_LOW = (torch.bfloat16, torch.float16)


class Conv2d(nn.Conv2d):
    """torch's `Conv2d`, but in float32 where it is trained on a CPU in low precision on a map smaller than its kernel.

    There some taps see nothing but padding, and oneDNN's bfloat16 kernels for AVX-512 do not write these taps' gradient (torch 2.13
    and 2.15; `findings/torch-cpu-bf16-conv-gradient.sh`): it is whatever the memory held.
    Such maps are a few positions; they cost nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, K, h, w]`, of the type that torch's own would give."""
        if self._is_exposed(x):
            low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            with torch.autocast("cpu", enabled=False):
                bias = None if self.bias is None else self.bias.float()
                return self._conv_forward(x.float(), self.weight.float(), bias).to(low)
        return super().forward(x)

    def _is_exposed(self, x: Tensor) -> bool:
        """By type and shape alone; the shape, which an export may leave open, is looked at last, and while exporting not at all."""
        low = x.dtype in _LOW or (torch.is_autocast_enabled("cpu") and x.dtype == torch.float32)
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not (low and trained and x.device.type == "cpu") or torch.compiler.is_exporting() or torch.jit.is_tracing():
            return False
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return x.shape[-2] < reach[0] or x.shape[-1] < reach[1]


def guard_small_maps(network: nn.Module) -> None:
    """Make every plain `nn.Conv2d` with padding a `Conv2d` of ours, in place: timm's layers, too. Names and weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding not in ((0, 0), "valid"):
            module.__class__ = Conv2d
