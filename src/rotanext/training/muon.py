"""Muon: matrices step along their momentum made orthogonal, everything else as in AdamW.

K. Jordan and others, "Muon: An optimizer for hidden layers in neural networks" (2024); J. Liu and others, "Muon is scalable for LLM
training" (arXiv:2502.16982). A convolution is the matrix of its kernels, `[out, in * height * width]`. The orthogonal factor is
approximated by Newton-Schulz steps, here on the small matrix of inner products: the same polynomials, half of the work where a
matrix is four times as wide as high, as ConvNeXt's are.
"""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3, x^5: brings singular values from 0.05 to 1 near 1 in few steps
MOMENTUM = 0.95
EPS = 1e-8  # AdamW's
_TINY = 1e-7


def orthogonal(matrices: Tensor, steps: int) -> Tensor:
    """Matrices `[N, rows, columns]` with singular values brought near 1 (0.7 to 1.2); zeros stay zeros. In float32."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + _TINY)
    a, b, c = COEFFICIENTS
    inner, identity = x @ x.mT, torch.eye(x.shape[1], device=x.device)
    product = identity
    for step in range(steps):
        # x <- p(x x^T) x; the polynomials of a symmetric matrix commute, so that x itself is needed once, at the end
        polynomial = torch.baddbmm(a * identity + b * inner, inner, inner, alpha=c)
        product = polynomial @ product if step else polynomial
        if step + 1 < steps:
            inner = polynomial @ inner @ polynomial
    x = product @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Groups with `matrices=True` by Muon, the others by AdamW; each group has its own rate and decay.

    A matrix's step is scaled by sqrt(max(1, rows / columns)). Weight decay is decoupled in both. Parameters may be parts of
    FSDP's: the momentum is gathered for the step, which every process then computes.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"matrices": False, "steps": 5, "lr": 0.0, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            (self._step_matrices if group["matrices"] else self._step_adamw)(parameters, group)
        return loss

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = []
        for parameter in parameters:
            momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            momentum.lerp_(parameter.grad, 1 - MOMENTUM)
            direction = torch.lerp(parameter.grad, momentum, MOMENTUM)  # type: ignore[arg-type]
            directions.append(direction.full_tensor() if isinstance(direction, DTensor) else direction)
        # matrices of one shape go together: their products are one call
        shapes = [(d.shape[0], d[0].numel()) for d in directions]
        for (rows, columns), same in groupby(sorted(range(len(shapes)), key=shapes.__getitem__), shapes.__getitem__):
            chosen = list(same)
            steps = orthogonal(torch.stack([directions[i].reshape(rows, columns) for i in chosen]), group["steps"])
            scale = max(1.0, rows / columns) ** 0.5
            for index, step in zip(chosen, steps, strict=True):
                parameter = parameters[index]
                change = step.reshape(directions[index].shape).to(parameter.dtype)
                if isinstance(parameter, DTensor):
                    change = distribute_tensor(change.contiguous(), parameter.device_mesh, parameter.placements, src_data_rank=None)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"] * scale)

    def _step_adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,  # type: ignore[arg-type]
            [p.grad for p in parameters],  # type: ignore[misc]
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPS,
            maximize=False,
        )
