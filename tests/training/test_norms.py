"""Batch norms over several processes: two real ones on gloo against torch's own norm on the whole batch, empty shares included."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from rotanext.training.norms import SynchronisedNorm, synchronised

SHARES = {"even": (2, 2), "uneven": (3, 1), "nothing for one": (0, 4), "one value": (1, 0)}
STEPS = 3


class WithActivation(nn.BatchNorm2d):
    """As timm has them; timm itself takes seconds to import, in each process."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def network(kind: str = "plain") -> nn.Module:
    """A norm between two convolutions, so that its input has a gradient and its output is not of mean 0."""
    torch.manual_seed(0)
    norm: nn.Module = WithActivation(4) if kind == "with activation" else nn.BatchNorm2d(4, momentum=0.3)
    if kind == "bare":
        norm = nn.BatchNorm2d(4, affine=False, momentum=None)
    if isinstance(norm.weight, nn.Parameter):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm, nn.Conv2d(4, 2, 1))  # a bias there would have no gradient


def batches(count: int) -> Tensor:
    """`[STEPS, count, 3, 9, 11]`, far from mean 0: what sums of squares would lose in float32."""
    return torch.randn(STEPS, count, 3, 9, 11, generator=torch.Generator().manual_seed(1)) * 3 + 20


def trained(model: nn.Module, images: Tensor, processes: int = 1) -> dict[str, Any]:
    """Outputs, gradients (of the sum over all processes) and buffers of some steps."""
    outputs, gradients = [], []
    for batch in images:
        batch = batch.clone().requires_grad_()
        model.zero_grad()
        y = model(batch)
        (torch.sin(y) * 0.1 + y**2).sum().backward()
        values = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for value in values if processes > 1 else []:
            dist.all_reduce(value)
        outputs.append(y.detach())
        gradients.append([value.clone() for value in (*values, batch.grad)])
    return {"outputs": outputs, "gradients": gradients, "buffers": dict(model.named_buffers())}


def one_of_two(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {}
    for name, shares in SHARES.items():
        first = shares[0] * rank
        images = batches(sum(shares))[:, first : first + shares[rank]]
        for kind in ("plain", "with activation", "bare"):
            model = synchronised(network(kind), torchs_own=False)
            assert isinstance(model[1], SynchronisedNorm)  # type: ignore[index]
            found[name, kind] = trained(model, images, 2)
    half = synchronised(network(), torchs_own=False)
    with torch.autocast("cpu", torch.bfloat16):
        y = half(batches(4)[0, 2 * rank : 2 * rank + 2])
    y.float().sum().backward()
    found["bf16"] = {"type": y.dtype, "buffers": dict(half.named_buffers())}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("norms")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(one_of_two, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def close(found: Tensor, expected: Tensor) -> None:
    """Within 2e-5 of the largest value; rounding alone leaves 1e-5."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["plain", "with activation", "bare"])
@pytest.mark.parametrize("name", SHARES)
def test_two_processes_are_one_with_the_whole_batch(name: str, kind: str, found: list[dict[Any, Any]]) -> None:
    expected = trained(network(kind), batches(sum(SHARES[name])))
    one, two = (process[name, kind] for process in found)
    for step in range(STEPS):
        close(torch.cat([one["outputs"][step], two["outputs"][step]]), expected["outputs"][step])
        *parameters, images = expected["gradients"][step]
        for gradients in (one["gradients"][step], two["gradients"][step]):
            for value, correct in zip(gradients[:-1], parameters, strict=True):
                close(value, correct)
        close(torch.cat([one["gradients"][step][-1], two["gradients"][step][-1]]), images)
    for process in (one, two):
        assert process["buffers"].keys() == expected["buffers"].keys()
        for key, value in expected["buffers"].items():
            torch.testing.assert_close(process["buffers"][key], value, rtol=1e-5, atol=1e-6)


def test_statistics_are_float32_whatever_the_precision(found: list[dict[Any, Any]]) -> None:
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        model(batches(4)[0])
    for process in found:
        assert process["bf16"]["type"] == torch.bfloat16
        for key, value in model.named_buffers():
            torch.testing.assert_close(process["bf16"]["buffers"][key], value, rtol=1e-5, atol=1e-5)


# What is replaced by what


def test_every_norm_is_replaced_and_keeps_its_values() -> None:
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = list(model.parameters())
    assert synchronised(model, torchs_own=False) is model
    assert isinstance(model[1], SynchronisedNorm)
    assert (model[1].momentum, model[1].eps, model[1].training) == (0.3, 1e-5, True)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_in_evaluation_nothing_is_exchanged() -> None:
    images = batches(2)[0]
    for kind in ("plain", "with activation", "bare"):
        plain, own = network(kind).eval(), synchronised(network(kind), torchs_own=False).eval()
        assert torch.equal(plain(images), own(images))


def test_torchs_own_is_taken_where_it_does() -> None:
    assert isinstance(synchronised(network(), torchs_own=True)[1], nn.SyncBatchNorm)  # type: ignore[index]
    assert isinstance(synchronised(network("with activation"), torchs_own=True)[1], SynchronisedNorm)  # type: ignore[index]
    assert isinstance(synchronised(nn.BatchNorm1d(3), torchs_own=False), SynchronisedNorm)


def test_timms_norms_keep_their_activation() -> None:
    from timm.layers import BatchNormAct2d

    norm = BatchNormAct2d(3, act_layer=nn.SiLU).eval()
    images = torch.randn(2, 3, 5, 5)
    assert torch.equal(synchronised(norm, torchs_own=True)(images), norm(images))
    assert norm(images).min() < 0 < norm(images).max()


def test_a_norm_in_two_places_stays_one() -> None:
    norm = nn.BatchNorm2d(3)
    model = synchronised(nn.Sequential(norm, nn.Sequential(norm)), torchs_own=False)
    assert model[0] is model[1][0]  # type: ignore[index]


def test_frozen_norms_stay_frozen(tmp_path: Path) -> None:
    model = network()
    model[1].eval()  # type: ignore[operator]
    own = synchronised(model, torchs_own=False)
    before = own[1].running_mean.clone()  # type: ignore[index]
    own(batches(2)[0])
    assert torch.equal(own[1].running_mean, before)  # type: ignore[index]
