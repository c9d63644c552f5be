"""Optimiser, learning rate and averaged weights."""

import copy
import math
from typing import Any

import torch
from torch import nn

from rotanext.config import TrainConfig
from rotanext.training.muon import Muon
from rotanext.training.sharding import local


def build_optimizer(model: nn.Module, config: TrainConfig, processes: int = 1) -> torch.optim.Optimizer:
    """SGD, AdamW or Muon over the trainable parameters; those named in `no_decay` have no weight decay.

    With `scale_lr` the rate grows linearly with the total batch, from the published rate for a batch of 2.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if any(part in name for part in config.no_decay):
                plain.append(parameter)
            elif config.optimizer == "muon" and _is_matrix(name, parameter, config):
                matrices.append(parameter)
            else:
                decayed.append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    total = config.batch_size * config.accumulate * processes
    factor = total / 2 if config.scale_lr else 1.0
    lr = config.lr * factor
    if config.optimizer == "muon":
        groups = [{"weight_decay": config.weight_decay, "lr": lr} | group for group in groups]
        groups.append(
            {
                "params": matrices,
                "matrices": True,
                "steps": config.matrix_steps,
                "lr": config.matrix_lr * factor,
                "weight_decay": config.weight_decay,
            }
        )
        return Muon(groups, config.betas)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _is_matrix(name: str, parameter: nn.Parameter, config: TrainConfig) -> bool:
    """Whether Muon takes a parameter: matrices and kernels of full convolutions; depthwise ones mix nothing."""
    return parameter.dim() > 1 and parameter.shape[1] > 1 and not any(part in name for part in config.not_matrices)


def rate_factor(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """What the learning rate is multiplied with at `step` (from 0).

    "step": a tenth after each milestone epoch. "cosine": 1 for the share `flat` of the epochs (whole ones), then half a cosine down
    to `final_ratio`. Both rise linearly from `warmup_ratio` over the first `warmup_steps`.
    """
    if config.schedule == "step":
        factor = 0.1 ** sum(step // steps_per_epoch >= epoch for epoch in config.milestones)
    else:
        flat = math.floor(config.flat * config.epochs + 1e-6)  # epochs; 0.29 of 100 is 29, whatever the product's last digit
        falling = max(1, (config.epochs - flat) * steps_per_epoch)
        progress = min(1.0, max(0, step - flat * steps_per_epoch) / falling)
        factor = config.final_ratio + (1 - config.final_ratio) * (1 + math.cos(math.pi * progress)) / 2
    if step < config.warmup_steps:
        factor *= 1 - (1 - step / config.warmup_steps) * (1 - config.warmup_ratio)
    return factor


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's learning rate to `factor` times its initial one; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
    return optimizer.param_groups[0]["lr"]


def share_of_new(step: int, decay: float, warmup: int) -> float:
    """How much the weights after optimiser step number `step` (from 1) count in their moving average; in the end 1 - `decay`.

    The first weights of a training say little, so the average forgets faster in the beginning. With `warmup` (steps) the share
    falls exponentially, from 1 at the first step, as for RTMDet; with 0 the decay is at most (1 + step) / (10 + step), as in
    TensorFlow.
    """
    if not warmup:
        return 1 - min(decay, (1 + step) / (10 + step))
    least = 1 - decay
    return 1.0 if step == 1 else (1 - least) * math.exp(-step / warmup) + least


class AveragedModel:
    """Exponential moving average of a model's parameters and buffers; see `share_of_new`.

    Counters (whole numbers) cannot be averaged. They are the model's own, or with `warmup` those of the first step, for good.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step number `step` (from 1)."""
        share = share_of_new(step, self.decay, self.warmup)
        pairs = list(zip(_values(self.model), _values(model), strict=True))
        floating = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], share)
        for averaged, current in pairs:
            if not averaged.is_floating_point() and not (self.warmup and step > 1):
                averaged.copy_(current)


def _values(model: nn.Module) -> list[torch.Tensor]:
    """Parameters (this process's part) and buffers, as `state_dict` lists them but without its copying of names."""
    return [*local(model.parameters()), *model.buffers()]
