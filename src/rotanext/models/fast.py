"""The trained network rearranged for detecting: equal results in less time."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from rotanext.errors import first_line
from rotanext.heads.contract import Raw
from rotanext.models.convnext import Block
from rotanext.models.network import Network
from rotanext.ops.cpu import convolve

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHANNELS_WORTH_WINOGRAD = 32


class WinogradConv(nn.Module):
    """A 3x3 convolution with a trained one's weights, for float32 maps on the CPU; see ops/cpu_winograd.py."""

    matrices: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        from rotanext.ops.cpu_winograd import transform_weight

        super().__init__()
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        self.register_buffer("matrices", transform_weight(conv.weight.detach()))
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to `[B, K, H, W]`."""
        return convolve(x, self.matrices, self.bias)


def _suits_winograd(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and module.groups == 1
        and min(module.in_channels, module.out_channels) >= _CHANNELS_WORTH_WINOGRAD
    )


def for_inference(model: Network, precision: str = "fp32", winograd: bool = True) -> Network:
    """A copy of the network with outputs equal up to rounding, for use without gradients; it takes batches of the precision's type.

    Layer scale is folded into the linear layer before it. In float32 on the CPU 3x3 convolutions go by Winograd's algorithm, if
    wanted. KeyError for a precision that is not in `PRECISIONS`.
    """
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    for name in ("forward", "_original_forward"):  # accelerate's autocast, while training
        fast.__dict__.pop(name, None)
    for block in fast.modules():
        if isinstance(block, Block):
            block.fold_layer_scale()
    if winograd and precision == "fp32" and fast.mean.device.type == "cpu":
        for parent in list(fast.modules()):
            for name, child in list(parent.named_children()):
                if _suits_winograd(child):
                    setattr(parent, name, WinogradConv(child))  # type: ignore[arg-type]
    return fast.to(PRECISIONS[precision])


class CompiledNetwork:
    """The network through torch.compile (with CUDA graphs on a GPU); as it is, with a warning, from the first call that fails."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.works = True
        self._compiled: Any = torch.compile(network, mode="reduce-overhead" if network.mean.is_cuda else None)

    def __call__(self, batch: Tensor) -> Raw:
        """See `Network.forward`; another shape of batch than before is compiled anew."""
        if self.works:
            try:
                result: Raw = self._compiled(batch)
                return result
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # no compiler, no Triton, an unsupported device: torch raises many kinds
                reason = first_line(error)
                warnings.warn(f"torch.compile does not work here ({reason}); going on without it", stacklevel=2)
                self.works = False
        return self.network(batch)
