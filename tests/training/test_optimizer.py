"""Optimiser groups, learning rates against the reference's, and averaged weights."""

import math

import pytest
import torch
from torch import nn

from rotanext.config import TrainConfig, load_config
from rotanext.training.optimizer import AveragedModel, build_optimizer, rate_factor, set_rate

R50_SGD = "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota"
R50_ADAMW = "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_adamw-1x_dota"
CONVNEXT = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"


class Net(nn.Module):
    """Names that occur in the detectors, one parameter frozen, one buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.norm1 = nn.BatchNorm2d(1)
        self.layers = nn.ModuleDict({"downsample_norm": nn.LayerNorm(1), "mlp": nn.Linear(1, 1)})
        self.stem = nn.Parameter(torch.ones(1), requires_grad=False)


def train_config(recipe: str, *overrides: str) -> TrainConfig:
    return load_config(recipe, [f"train.{override}" for override in overrides]).train


# Learning rates of the reference's first six steps (golden train_*.json).
@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            CONVNEXT,
            [3.333333333333333e-05, 3.34e-05, 3.3466666666666656e-05, 3.3533333333333326e-05, 3.36e-05, 3.366666666666666e-05],
        ),
        (
            R50_SGD,
            [0.0008333333333333332, 0.0008366666666666664, 0.00084, 0.0008433333333333332, 0.0008466666666666665, 0.00085],
        ),
    ],
    ids=["convnext-adamw", "r50-sgd"],
)
def test_warm_up_against_the_reference(recipe: str, expected: list[float]) -> None:
    config = train_config(recipe)
    optimizer = build_optimizer(Net(), config)
    rates = [set_rate(optimizer, rate_factor(step, 10_000, config)) for step in range(6)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert all(group["lr"] == rates[-1] for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 3),
        (250, 2 / 3),
        (499, 1 - 2 / 3 / 500),
        (500, 1),
        (7999, 1),
        (8000, 0.1),
        (10_999, 0.1),
        (11_000, 0.01),
        (11_999, 0.01),
    ],
)
def test_step_schedule(step: int, factor: float) -> None:
    assert rate_factor(step, 1000, train_config(R50_SGD)) == pytest.approx(factor)


def test_warm_up_may_reach_into_the_decay() -> None:
    config = train_config(R50_SGD, "warmup_steps=100", "milestones=[1]")
    assert rate_factor(50, 25, config) == pytest.approx(0.1 * (1 - 0.5 * 2 / 3))


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1), (250, 0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2), (500, 0.505), (1000, 0.01), (2000, 0.01)]
)
def test_cosine_schedule(step: int, factor: float) -> None:
    config = train_config("small", "epochs=10", "warmup_steps=0")
    assert rate_factor(step, 100, config) == pytest.approx(factor)


def test_cosine_warm_up_starts_low_and_rises() -> None:
    config = train_config("small", "warmup_steps=10", "warmup_ratio=0.01")
    factors = [rate_factor(step, 1000, config) for step in range(11)]
    assert factors[0] == pytest.approx(0.01)
    assert factors == sorted(factors)
    assert factors[10] == pytest.approx(1, abs=1e-3)


def grouped(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


NORMS = {"norm1.weight", "norm1.bias", "layers.downsample_norm.weight", "layers.downsample_norm.bias"}
OTHERS = {"conv.weight", "conv.bias", "layers.mlp.weight", "layers.mlp.bias"}


@pytest.mark.parametrize(
    ("recipe", "decayed", "plain", "decay"),
    [(R50_SGD, OTHERS | NORMS, set(), 1e-4), (R50_ADAMW, OTHERS, NORMS, 0.05), (CONVNEXT, OTHERS, NORMS, 0.05)],
    ids=["r50-sgd", "r50-adamw", "convnext-adamw"],
)
def test_weight_decay_by_name(recipe: str, decayed: set[str], plain: set[str], decay: float) -> None:
    model = Net()
    optimizer = build_optimizer(model, train_config(recipe))
    assert grouped(optimizer, model) == [decayed, plain]  # the frozen one in neither
    assert [group["weight_decay"] for group in optimizer.param_groups] == [decay, 0]


def test_optimisers_and_their_settings() -> None:
    sgd, adamw = (build_optimizer(Net(), train_config(name)) for name in (R50_SGD, CONVNEXT))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.9
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("overrides", "processes", "times"),
    [
        ([], 4, 1),  # off: the published rate whatever the batch
        (["scale_lr=true"], 1, 1),
        (["scale_lr=true"], 4, 4),
        (["scale_lr=true", "batch_size=8", "accumulate=2"], 2, 16),
        (["scale_lr=true", "batch_size=1"], 1, 0.5),
    ],
)
def test_linear_scaling(overrides: list[str], processes: int, times: float) -> None:
    optimizer = build_optimizer(Net(), train_config(R50_SGD, *overrides), processes)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0025 * times)


def test_averaged_weights_follow_the_formula() -> None:
    model = Net()
    average = AveragedModel(model, 0.5)
    expected = model.conv.weight.item()
    for step in range(1, 12):
        with torch.no_grad():
            model.conv.weight.fill_(float(step))
            model.norm1.running_mean.fill_(float(step))
            model.norm1.num_batches_tracked.fill_(step)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.model.conv.weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.model.norm1.num_batches_tracked.item() == 11  # counters are copied
    assert 5 < average.model.norm1.running_mean.item() < 11  # other buffers are averaged


def test_averaged_weights_are_a_copy_that_is_not_trained() -> None:
    model = Net()
    average = AveragedModel(model, 0.999)
    assert not average.model.training
    assert model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    assert model.conv.weight.requires_grad
    assert average.model.conv.weight.data_ptr() != model.conv.weight.data_ptr()
