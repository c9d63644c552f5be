"""A model over several processes, as far as one shows it: who shards, which modules, and how whole states come back."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from networks import small_network
from rotanext.training import sharding
from rotanext.training.norms import SynchronisedNorm
from rotanext.training.sharding import (
    load_optimizer,
    load_weights,
    local,
    shard,
    synchronise_norms,
    wants_shards,
    whole,
    whole_on_main,
)
from rotanext.training.state import save_state
from tiny import read_state, tiny_config
from trainings import stopping_after, train


def processes(count: int, device: str = "cpu", is_main: bool = True) -> Any:
    """What these functions ask of a training's processes."""
    return SimpleNamespace(count=count, device=torch.device(device), is_main=is_main)


@pytest.mark.parametrize(
    ("count", "asked", "environment", "expected"),
    [
        (1, True, "true", False),  # one process has nobody to share with
        (2, False, None, False),
        (2, False, "false", False),
        (2, False, "true", True),  # accelerate launch --use_fsdp
        (2, False, "TRUE", True),
        (2, True, None, True),
        (2, True, "false", True),
    ],
)
def test_who_shards(count: int, asked: bool, environment: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    if environment is not None:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", environment)
    assert wants_shards(processes(count), asked) is expected


# Batch norms


def normed(trained: bool = True) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4) if trained else nn.GroupNorm(1, 4))


def test_norms_are_synchronised_where_several_processes_train_them() -> None:
    assert any(isinstance(m, nn.SyncBatchNorm) for m in synchronise_norms(normed(), processes(2, "cuda")).modules())
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in synchronise_norms(normed(), processes(1, "cuda")).modules())
    assert any(isinstance(m, SynchronisedNorm) for m in synchronise_norms(normed(), processes(2)).modules())
    assert not any(isinstance(m, SynchronisedNorm) for m in synchronise_norms(normed(), processes(1)).modules())
    plain = normed(trained=False)
    assert synchronise_norms(plain, processes(2)) is plain


def test_frozen_norms_need_no_synchronising() -> None:
    frozen = small_network("timm:test_resnet", 1, "backbone.frozen_norm=true")
    assert synchronise_norms(frozen.eval(), processes(2)) is frozen
    assert frozen.training


# Units, parts and wholes


def test_units_are_the_members_of_lists_that_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network("convnext_atto", 1)
    names = {module: name for name, module in network.named_modules()}
    assert [names[unit] for unit in sharding._units(network)] == ["backbone.stages.3.0", "backbone.stages.3.1"]
    monkeypatch.setattr(sharding, "_WORTH_A_UNIT", 100_000)
    units = sharding._units(network)
    blocks = [f"backbone.stages.{stage}.{block}" for stage, count in ((2, 6), (3, 2)) for block in range(count)]
    assert [names[unit] for unit in units] == ["backbone.downsample_layers.3.1", *blocks]
    inside = [id(m) for unit in units for m in unit.modules()]
    assert len(inside) == len(set(inside))  # none within another
    monkeypatch.setattr(sharding, "_WORTH_A_UNIT", 1 << 40)
    assert sharding._units(network) == []


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one, so that shards are torch's own, and whole."""
    assert not dist.is_initialized()
    before = dict(os.environ)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))


def stepped(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.usefixtures("alone")
def test_a_sharded_model_and_its_optimizer_leave_and_come_back_whole() -> None:
    plain = two_layers()
    sharded = copy.deepcopy(plain)
    shard(sharded, processes(1))
    expected, optimizer = stepped(plain), stepped(sharded)
    state = {"model": sharded.state_dict(), "optimizer": optimizer.state_dict(), "step": 7, "names": ["a", "b"]}
    assert all(isinstance(value, DTensor) for value in state["model"].values())
    made = whole(state)
    assert equal(made["model"], plain.state_dict())
    assert not any(isinstance(value, DTensor) for value in made["model"].values())
    assert (made["step"], made["names"]) == (7, ["a", "b"])
    for index, moments in expected.state_dict()["state"].items():
        assert equal(made["optimizer"]["state"][index], moments)
    assert [tuple(part.shape) for part in local(sharded.parameters())] == [tuple(p.shape) for p in plain.parameters()]

    unsharded, other = two_layers(), two_layers()
    load_weights(unsharded, made["model"])
    assert equal(unsharded.state_dict(), made["model"])
    shard(other, processes(1))
    load_weights(other, made["model"])
    assert all(isinstance(value, DTensor) for value in other.state_dict().values())
    assert equal(whole(other.state_dict()), made["model"])
    fresh = torch.optim.AdamW(other.parameters(), lr=0.5)
    load_optimizer(fresh, made["optimizer"])
    assert fresh.param_groups[0]["lr"] == 0.1
    for index, moments in whole(fresh.state_dict())["state"].items():
        assert equal(moments, made["optimizer"]["state"][index])


@pytest.mark.usefixtures("alone")
def test_only_the_main_process_keeps_the_whole() -> None:
    model = two_layers()
    shard(model, processes(1))
    state = {"model": model.state_dict(), "rows": [1, {"step": 2}]}
    kept, nothing = whole_on_main(state, processes(1)), whole_on_main(state, processes(2, is_main=False))
    assert equal(kept["model"], whole(state["model"]))
    assert set(nothing["model"].values()) == {None}
    assert kept["rows"] == nothing["rows"] == [1, {"step": 2}]


def test_what_is_no_part_stays_as_it_is() -> None:
    values = [torch.ones(2), {"a": torch.zeros(1)}, "text", None, (1, 2)]
    found = whole(values)
    assert found[0] is values[0]
    assert found[1]["a"] is values[1]["a"]  # type: ignore[index]
    assert found[2:] == ["text", None, (1, 2)]
    assert whole_on_main(values, processes(1))[0] is values[0]
    assert local([values[0]])[0] is values[0]  # type: ignore[list-item]


def test_weights_that_do_not_fit_are_refused() -> None:
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    values = {"0.weight": torch.zeros(1, 1), "9.weight": torch.zeros(2), **{key: before[key] for key in list(before)[1:]}}
    with pytest.raises(RuntimeError, match=r"(?s)Unexpected key.*9\.weight.*size mismatch for 0\.weight"):
        load_weights(model, values)


def test_loaded_moments_take_the_layout_of_their_parameters() -> None:
    model = two_layers().to(memory_format=torch.channels_last)
    optimizer = stepped(model)
    state = copy.deepcopy(optimizer.state_dict())
    for moments in state["state"].values():
        moments |= {key: value.contiguous() for key, value in moments.items()}
    fresh = torch.optim.AdamW(model.parameters())
    load_optimizer(fresh, state)
    weight = next(model.parameters())
    assert not weight.is_contiguous()
    assert fresh.state[weight]["exp_avg"].stride() == weight.stride()
    assert torch.equal(fresh.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])
    assert fresh.state[weight]["step"].shape == ()


# Within a training


def test_moments_are_laid_out_as_their_parameters(tiny_dataset: Path, tmp_path: Path) -> None:
    """The fused optimisers read both as plain memory: a state that was saved in another layout gave wrong steps."""
    config = tiny_config(tiny_dataset / "train", None, "train.epochs=2")
    train(config, tmp_path / "straight")
    with stopping_after(2), pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "halved")
    state = read_state(tmp_path / "halved")
    assert any(not v["exp_avg"].is_contiguous() for v in state["optimizer"]["state"].values()), "channels last"
    for moments in state["optimizer"]["state"].values():
        moments |= {key: value.contiguous() for key, value in moments.items()}
    save_state(tmp_path / "halved", 2, state, 2)
    train(config, tmp_path / "halved", resume=True)
    one, two = (read_state(tmp_path / name)["model"] for name in ("straight", "halved"))
    assert all(torch.equal(one[key], two[key]) for key in one)
