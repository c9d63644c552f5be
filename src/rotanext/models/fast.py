"""The trained network rearranged for detecting: equal results in less time.

Two rules, module by module, for any network: what has a method `fold_norms` puts its batch norms into its convolutions, and what
`_faster` knows a faster module for is replaced by it, wherever it stands.
"""

import copy
import warnings
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotanext import ops
from rotanext.errors import first_line
from rotanext.heads.contract import Raw
from rotanext.models.convnext import Block
from rotanext.models.network import Network
from rotanext.models.small_maps import Conv2d

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHANNELS_WORTH_WINOGRAD = 160  # below that torch's own convolutions are as fast, or faster; see docs/log.md
_HIDDEN_AT_ONCE = 1 << 20  # numbers
_Network = TypeVar("_Network", bound=nn.Module)


class WinogradConv(nn.Module):
    """A 3x3 convolution with a trained one's weights, for float32 maps on the CPU; see `ops.winograd_convolution`."""

    matrices: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        self.register_buffer("matrices", ops.winograd_matrices(conv.weight.detach()))
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to `[B, K, H, W]`."""
        return ops.winograd_convolution(x, self.matrices, self.bias)


class FoldedBlock(nn.Module):
    """A ConvNeXt block, version 1, with its layer scale in the last linear layer, which is a copy; the rest is the block's own.

    On the CPU the MLP takes some positions at a time, so that the wide layer in its middle stays in the processor's cache.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.dwconv, self.norm, self.pwconv1 = block.dwconv, block.norm, block.pwconv1
        self.pwconv2 = copy.deepcopy(block.pwconv2)
        if block.gamma is not None:
            with torch.no_grad():
                self.pwconv2.weight.mul_(block.gamma[:, None])
                self.pwconv2.bias.mul_(block.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same, as `Block.forward`."""
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self._mlp_in_parts(y) if self._pays_in_parts(y) else self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)

    def _pays_in_parts(self, y: Tensor) -> bool:
        plain = not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
        return plain and ops.compiled_in_place(y.device) and y.is_contiguous()

    def _mlp_in_parts(self, y: Tensor) -> Tensor:
        rows = y.flatten(0, 2)
        out = torch.empty_like(rows)
        count = max(1, _HIDDEN_AT_ONCE // self.pwconv1.out_features)
        hidden = rows.new_empty(min(count, len(rows)), self.pwconv1.out_features)
        for part, target in zip(rows.split(count), out.split(count), strict=True):
            wide = hidden[: len(part)]
            torch.addmm(self.pwconv1.bias, self.norm(part), self.pwconv1.weight.t(), out=wide)
            torch.addmm(self.pwconv2.bias, torch.ops.aten.gelu_(wide), self.pwconv2.weight.t(), out=target)
        return out.view_as(y)


def _suits_winograd(module: nn.Module) -> bool:
    """Whether it is a plain convolution of that kind: timm has some that change their weights on the way."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward in (nn.Conv2d.forward, Conv2d.forward)
        and type(module)._conv_forward == nn.Conv2d._conv_forward
        and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (module.groups, module.padding_mode) == (1, "zeros")
        and min(module.in_channels, module.out_channels) >= _CHANNELS_WORTH_WINOGRAD
    )


def _faster(module: nn.Module, winograd: bool) -> nn.Module | None:
    """A module that computes the same in less time, where there is one."""
    if isinstance(module, Block) and module.grn is None:
        return FoldedBlock(module)
    if winograd and _suits_winograd(module):
        return WinogradConv(module)  # type: ignore[arg-type]
    return None


def _fold_norms(network: nn.Module) -> None:
    """Whatever has the method puts its batch norms into its convolutions, in place."""
    for module in list(network.modules()):
        fold: Any = getattr(module, "fold_norms", None)
        if fold is not None:
            fold()


def for_inference(model: _Network, precision: str = "fp32", winograd: bool = True, fold: bool = True) -> _Network:
    """A copy of the network with outputs equal up to rounding, for use without gradients; it takes batches of the precision's type.

    Batch norms are folded into the convolutions before them, if wanted, layer scale into the linear layer before it, and wide
    layers are computed in parts. In float32 on the CPU wide 3x3 convolutions go by Winograd's algorithm, if wanted (torch.compile
    and exports see through everything else). ROTANEXT_OPS=reference leaves the network as it is. KeyError for a precision that is
    not in `PRECISIONS`.
    """
    dtype = PRECISIONS[precision]
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    for name in ("forward", "_original_forward"):  # accelerate's autocast, while training
        fast.__dict__.pop(name, None)
    device = next((parameter.device for parameter in fast.parameters()), torch.device("cpu"))
    if ops.implementation(device) is ops.reference:
        return fast.to(dtype)
    if fold:
        _fold_norms(fast)
    winograd = winograd and dtype == torch.float32 and ops.compiled_in_place(device)
    made: dict[nn.Module, nn.Module | None] = {}  # a module that stands in several places is replaced by one
    for path, module in list(fast.named_modules(remove_duplicate=False)):
        if path and module not in made:
            made[module] = _faster(module, winograd)
        if path and (replacement := made[module]) is not None:
            parent, _, name = path.rpartition(".")
            setattr(fast.get_submodule(parent), name, replacement)
    return fast.to(dtype)


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
