"""Muon: orthogonal directions for matrices, AdamW for the rest, states that are saved."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rotanext.config import load_config
from rotanext.inference.detector import build_network
from rotanext.training.muon import COEFFICIENTS, MOMENTUM, Muon, orthogonal
from rotanext.training.optimizer import build_optimizer


def plain(matrix: Tensor, steps: int) -> Tensor:
    """Newton-Schulz steps as published, on the matrix itself."""
    a, b, c = COEFFICIENTS
    x = matrix / matrix.norm()
    for _ in range(steps):
        inner = x @ x.mT
        x = a * x + (b * inner + c * inner @ inner) @ x
    return x


@pytest.mark.parametrize(("rows", "columns"), [(8, 32), (32, 8), (16, 16), (1, 9)])
def test_it_is_the_published_iteration(rows: int, columns: int) -> None:
    matrices = torch.randn(3, rows, columns, dtype=torch.float64)
    found = orthogonal(matrices, 5)
    for one, matrix in zip(found, matrices, strict=True):
        torch.testing.assert_close(one, plain(matrix, 5).float(), rtol=1e-3, atol=1e-3)


def test_singular_values_come_near_one() -> None:
    matrices = torch.randn(4, 24, 96)
    values = torch.linalg.svdvals(orthogonal(matrices, 5))
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert torch.equal(orthogonal(torch.zeros(2, 3, 5), 5), torch.zeros(2, 3, 5))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(400, 4))


def groups(model: nn.Module) -> list[dict[str, object]]:
    matrices = [model[2].weight, model[4].weight]  # type: ignore[index]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [{"params": rest, "lr": 1e-3}, {"params": matrices, "matrices": True, "steps": 5, "lr": 0.02, "weight_decay": 0.1}]


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> list[float]:
    random = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        x = torch.randn(4, 3, 16, 16, generator=random)
        loss = (model(x) - x.mean((2, 3)).sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_matrix_moves_by_its_orthogonal_momentum_and_decays() -> None:
    model = network()
    before = copy.deepcopy(model)
    trained(model, Muon(groups(model), (0.9, 0.99)), 1)
    gradient = model[4].weight.grad
    momentum = (1 - MOMENTUM) * gradient
    direction = gradient + MOMENTUM * (momentum - gradient)  # Nesterov's
    step = 0.02 * orthogonal(direction[None], 5)[0]
    torch.testing.assert_close(model[4].weight, before[4].weight * (1 - 0.02 * 0.1) - step, rtol=1e-4, atol=1e-6)


def test_everything_else_is_adamw() -> None:
    model, other = network(), network()
    for one in (model, other):
        one[2].requires_grad_(False)
        one[4].requires_grad_(False)
    rest = [p for p in other.parameters() if p.requires_grad]
    adam = torch.optim.AdamW([{"params": rest, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.99), fused=True)
    assert trained(model, Muon(groups(model), (0.9, 0.99)), 5) == trained(other, adam, 5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_it_goes_on_from_its_state_as_if_never_stopped(layout: torch.memory_format) -> None:
    model = network().to(memory_format=layout)
    optimizer = Muon(groups(model), (0.9, 0.99))
    trained(model, optimizer, 3)
    other = copy.deepcopy(model)
    again = Muon(groups(other), (0.9, 0.99))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert trained(model, optimizer, 3, 2) == trained(other, again, 3, 2)


def test_the_network_of_a_recipe_is_divided_by_names_and_shapes() -> None:
    """Matrices are what mixes channels: neither depthwise kernels nor the stem nor outputs, nor anything without decay."""
    config = load_config("demo")
    model = build_network(config, 6)
    optimizer = build_optimizer(model, config.train)
    assert isinstance(optimizer, Muon)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain_ones, matrices = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert all(".weight" in name and "norm" not in name and "bn." not in name for name in matrices)
    assert any("pwconv1" in name for name in matrices)
    assert any(name.startswith("neck.output") for name in matrices)
    assert not any(part in name for name in matrices for part in ("dwconv", "downsample_layers.0.", "_out."))
    assert all(any(part in name for part in ("dwconv", "downsample_layers.", "_out.")) for name in decayed)
    assert all("norm" in name or "bn." in name or "bias" in name or "gamma" in name for name in plain_ones)
    assert len(decayed) + len(plain_ones) + len(matrices) == sum(p.requires_grad for p in model.parameters())
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {config.train.lr, config.train.matrix_lr}
