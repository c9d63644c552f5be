"""Batch norms whose statistics are those of all processes' batches together, on any device and for empty batches, too.

torch's own (nn.SyncBatchNorm) needs a GPU.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rotanext.layers import BatchNorm2d


class Statistics(torch.autograd.Function):
    """Normalises by mean and variance over all processes; both are functions of every process's `x`, and the gradient says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The normalised `[B, C, ...]`, of the type of `x`, with mean and variance `[C]` and the number of values behind each."""
        count, mean, var = _combined(*_of_one(x))
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradients of batch normalisation (Ioffe and Szegedy, 2015), the sums in that of `x` taken over all processes."""
        x, weight, mean, rate, count = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.dim() - 2)
        dims = [0, *range(2, x.dim())]
        normal = (x.float() - mean.view(shape)) * rate.view(shape)
        slope = gradient.float()
        own = torch.stack([slope.sum(dims), (slope * normal).sum(dims)])
        total = own.clone()
        dist.all_reduce(total)
        total /= count
        change = (slope - total[0].view(shape) - normal * total[1].view(shape)) * (weight * rate).view(shape)
        return change.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None


def _of_one(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many values a process has for each channel, their mean `[C]`, and the sum `[C]` of their squared distances to it."""
    count = x.numel() // x.shape[1]
    if not count:
        nothing = x.new_zeros(x.shape[1], dtype=torch.float32)
        return nothing[:1], nothing, nothing
    var, mean = torch.var_mean(x.float(), [0, *range(2, x.dim())], correction=0)
    return mean.new_tensor([count]), mean, var * count


def _combined(count: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values, mean and variance of all processes, from those of each (Chan et al., 1979)."""
    mine = torch.cat([count, mean, squares])
    every = mine.new_empty(dist.get_world_size() * len(mine))
    dist.all_gather_into_tensor(every, mine)
    counts, means, squares = every.view(-1, len(mine)).split([1, len(mean), len(mean)], 1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    return count, mean, (squares + counts * (means - mean) ** 2).sum(0) / count


class SynchronisedNorm(_BatchNorm):
    """A batch norm over the batches of all processes; in evaluation like any other. Its parameters and buffers are `norm`'s."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var, self.num_batches_tracked = (
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
        )
        self.training = norm.training
        for name in ("drop", "act"):  # timm has norms with an activation
            if isinstance(after := getattr(norm, name, None), nn.Module):
                self.add_module(name, after)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, ...]` to the same; all processes have to call it together while it trains."""
        y = self._trained(x) if self.training else super().forward(x)
        for after in self.children():
            y = after(y)
        return y

    def _trained(self, x: Tensor) -> Tensor:
        weight = x.new_ones(self.num_features, dtype=torch.float32) if self.weight is None else self.weight
        bias = x.new_zeros(self.num_features, dtype=torch.float32) if self.bias is None else self.bias
        y, mean, var, count = Statistics.apply(x, weight, bias, self.eps)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), share)  # as torch: the unbiased one
        result: Tensor = y
        return result


def synchronised(module: nn.Module, torchs_own: bool) -> nn.Module:
    """The module with every batch norm in it replaced by a synchronised one: torch's, where that is wanted and does for it."""
    made: dict[nn.Module, nn.Module] = {}  # one that stands in several places is replaced by one
    for path, norm in list(module.named_modules(remove_duplicate=False)):
        if not isinstance(norm, _BatchNorm):
            continue
        if norm not in made:
            # of others it would drop the activation
            plain = type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm2d)
            made[norm] = nn.SyncBatchNorm.convert_sync_batchnorm(norm) if torchs_own and plain else SynchronisedNorm(norm)
        parent, _, name = path.rpartition(".")
        if path:
            setattr(module.get_submodule(parent), name, made[norm])
    return made.get(module, module)
