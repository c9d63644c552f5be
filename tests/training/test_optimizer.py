"""Optimiser groups, learning rates against the reference's, and averaged weights."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rotanext.config import TrainConfig, load_config
from rotanext.training.optimizer import AveragedModel, build_optimizer, rate_factor, set_rate, share_of_new

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


# RTMDet's schedule: 36 epochs of 100 steps.
RTMDET = ("epochs=36", "lr=0.00025", "flat=0.5", "final_ratio=0.05", "warmup_steps=999", "warmup_ratio=1e-5")


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 2.5e-9),
        (1, 2.52747748e-7),
        (998, 2.5e-4 * (1e-5 + (1 - 1e-5) * 998 / 999)),
        (999, 2.5e-4),
        (1799, 2.5e-4),
        (1800, 2.5e-4),
        (1801, 1.25e-5 + 2.375e-4 * (1 + math.cos(math.pi / 1800)) / 2),
        (2700, 1.3125e-4),
        (3600, 1.25e-5),
    ],
)
def test_flat_then_cosine_as_rtmdet_has_it(step: int, rate: float) -> None:
    assert 0.00025 * rate_factor(step, 100, train_config("small", *RTMDET)) == pytest.approx(rate, rel=1e-8)


@pytest.mark.parametrize(("epochs", "flat", "first"), [(37, 0.5, 18), (35, 0.5, 17), (100, 0.29, 29), (3, 0.0, 0), (4, 0.2, 0)])
def test_the_cosine_begins_with_an_epoch(epochs: int, flat: float, first: int) -> None:
    config = train_config("small", f"epochs={epochs}", f"flat={flat}", "warmup_steps=0")
    factors = [rate_factor(step, 7, config) for step in range(epochs * 7)]
    assert factors[: first * 7 + 1] == [1.0] * (first * 7 + 1)
    assert factors[first * 7 + 1] < 1


def test_a_rate_that_never_falls() -> None:
    config = train_config("small", "epochs=2", "flat=1.0", "warmup_steps=0")
    assert {rate_factor(step, 5, config) for step in range(10)} == {1.0}
    assert {rate_factor(step, 5, train_config("small", "epochs=2", "final_ratio=1.0", "warmup_steps=0")) for step in range(10)} == {
        1.0
    }


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


@pytest.mark.parametrize("name", ["tiny", "s", "m", "l", "convnext-tiny_pafpn"])
def test_names_find_the_norms_and_biases_of_rtmdet(name: str, shared: Path) -> None:
    """What has no decay there: everything with one dimension, but for ConvNeXt's layer scales."""
    shapes = json.loads((shared / "golden/rtmdet-layouts.json").read_text())["shapes"][name]
    parameters = {key: shape for key, shape in shapes.items() if "running_" not in key and "num_batches" not in key}
    expected = {key for key, shape in parameters.items() if len(shape) == 1 and not key.endswith("gamma")}
    own = (
        [f"downsample_layers.{at}" for at in ("0.1", "1.0", "2.0", "3.0")] if "convnext" in name else []
    )  # its norms without a name
    found = {key for key in parameters if any(part in key for part in ("bn.", "norm", "bias", *own))}
    assert len(expected) > 100
    assert found == expected


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
    average = AveragedModel(model, 0.5, 0)
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
    average = AveragedModel(model, 0.999, 0)
    assert not average.model.training
    assert model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    assert model.conv.weight.requires_grad
    assert average.model.conv.weight.data_ptr() != model.conv.weight.data_ptr()


# The reference's momentum (golden rtmdet-functions.npz, `ema_momentum`) by its step, which counts from 0.
RTMDET_SHARES = {0: 9.995002249541735e-01, 1: 9.990006997334083e-01, 2: 9.985014242128234e-01, 10: 9.945161942894573e-01,
                 1000: 6.063062246924379e-01, 20000: 2.4536816002455474e-04}  # fmt: skip


@pytest.mark.parametrize("step", RTMDET_SHARES)
def test_the_share_of_new_weights_against_the_reference(step: int) -> None:
    expected = RTMDET_SHARES[step] if step else 1.0  # its first step copies
    assert share_of_new(step + 1, 0.9998, 2000) == pytest.approx(expected, rel=1e-9)


def test_the_first_step_copies_and_counters_stay_with_a_warm_up() -> None:
    model, copied = Net(), Net()
    average = AveragedModel(model, 0.5, 3)
    for step in range(1, 6):
        with torch.no_grad():
            model.conv.weight.fill_(float(step))
            model.norm1.running_mean.fill_(float(step))
            model.norm1.num_batches_tracked.fill_(step)
        average.update(model, step)
        if step == 1:
            expected = 1.0
            copied.load_state_dict(model.state_dict())
            assert all(map(torch.equal, average.model.state_dict().values(), copied.state_dict().values()))
        share = 0.5 * math.exp(-step / 3) + 0.5
        expected = expected if step == 1 else (1 - share) * expected + share * step
        assert average.model.conv.weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.model.norm1.running_mean.item() == pytest.approx(expected, rel=1e-5)
        assert average.model.norm1.num_batches_tracked.item() == 1
