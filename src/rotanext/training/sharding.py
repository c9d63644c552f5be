"""A model over several processes: a whole copy in each (DDP), or a part in each (FSDP).

A part is torch's DTensor. Whatever leaves a training (states, checkpoints, validation) is whole, the same with any number of
processes and in both ways.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm

from rotanext.system.processes import Processes
from rotanext.training.norms import synchronised

_WORTH_A_UNIT = 1 << 18  # parameters: smaller modules are gathered with the rest, for the whole step


def wants_shards(processes: Processes, asked: bool) -> bool:
    """Whether to shard: as the configuration says, or `accelerate launch --use_fsdp`; never with one process."""
    return processes.count > 1 and (asked or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true")


def shard(model: nn.Module, processes: Processes) -> None:
    """Split all parameters among the processes, in place; each large module is gathered only while it computes."""
    model.to(memory_format=torch.contiguous_format)  # FSDP takes no other
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for module in _units(model):
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _units(model: nn.Module) -> list[nn.Module]:
    """Members of lists (blocks, layers) with many parameters, and none within another."""
    found = []
    for child in model.children():
        inner = _units(child)
        is_member = isinstance(model, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        computes = type(child).forward is not nn.Module.forward  # lists themselves do not
        found += [child] if is_member and computes and not inner and _size(child) >= _WORTH_A_UNIT else inner
    return found


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def synchronise_norms(model: nn.Module, processes: Processes) -> nn.Module:
    """Let batch norms that are trained take their statistics over all processes."""
    trained = any(isinstance(m, _BatchNorm) and m.training for m in model.train().modules())
    if processes.count == 1 or not trained:
        return model
    return synchronised(model, torchs_own=processes.device.type != "cpu")


def local(values: Iterable[Tensor]) -> list[Tensor]:
    """This process's part of each."""
    return [v.to_local() if isinstance(v, DTensor) else v for v in values]


def whole(value: Any) -> Any:
    """Nested dicts and lists with every part made whole, on every process; all of them have to call it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def whole_on_main(value: Any, processes: Processes) -> Any:
    """Like `whole`, but kept (on the CPU) by the main process alone; what holds no parts stays as it is."""
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.cpu() if processes.is_main else None
    if isinstance(value, dict):
        return {key: whole_on_main(item, processes) for key, item in value.items()}
    return [whole_on_main(item, processes) for item in value] if isinstance(value, list) else value


def _part_like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, or the part of it, that goes with `model`, where that is one of the same shape; laid out in memory as that.

    The fused optimisers take parameters and moments for laid out alike, and do not check.
    """
    if not isinstance(value, Tensor) or value.shape != model.shape:
        return value
    if isinstance(model, DTensor):
        return distribute_tensor(value.to(model.device).contiguous(), model.device_mesh, model.placements, src_data_rank=None)
    return torch.empty_like(model, dtype=value.dtype).copy_(value)


def load_weights(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Load a whole state dict into a model, sharded or not."""
    own = model.state_dict()
    model.load_state_dict({key: _part_like(value, own[key]) if key in own else value for key, value in values.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    """Load an optimiser's whole state dict for the parameters it has, sharded or not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        index: {key: _part_like(value, parameters[index]) for key, value in moments.items()}
        for index, moments in values["state"].items()
    }
    optimizer.load_state_dict(values | {"state": state})
