"""One process alone: everything is what it would be without the others. Several are in tests/training/test_distributed.py."""

import pytest
import torch

from rotanext.errors import UserError
from rotanext.system.processes import Processes, lost_contact


@pytest.fixture
def alone() -> Processes:
    return Processes("cpu", "fp32")


def test_alone_is_free_of_cost(alone: Processes) -> None:
    assert (alone.rank, alone.count, alone.is_main) == (0, 1, True)
    assert alone.device == torch.device("cpu")
    assert alone.gather({"a": 1}) == [{"a": 1}]
    assert alone.gather_on_main("x") == ["x"]
    assert alone.sum([1, 2.5]) == [1, 2.5]
    values = torch.tensor([1.0, 2.0])
    assert alone.mean(values) is values
    alone.leave()


def test_an_error_stays_what_it_was(alone: Processes) -> None:
    with pytest.raises(UserError, match="no such folder"), alone.together():
        raise UserError("no such folder")
    with pytest.raises(UserError, match="agreed"):
        alone.fail("agreed")


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({"WORLD_SIZE": "2"}, "cpu:0", "each of several processes takes a device of its own: say --device cpu"),
        ({"WORLD_SIZE": "2"}, "cpu", "the processes do not know each other"),
    ],
    ids=["a numbered device", "half a launcher"],
)
def test_launches_that_cannot_work(environment: dict[str, str], device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        Processes(device, "fp32")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1"), True),
        (torch.distributed.DistNetworkError("x"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_which_errors_mean_that_another_process_is_gone(error: RuntimeError, lost: bool) -> None:
    assert lost_contact(error) is lost


def test_fp16_is_refused_on_a_cpu_where_it_would_be_fp32() -> None:
    with pytest.raises(UserError, match=r"train\.precision is fp16.*Use train\.precision=bf16"):
        Processes("cpu", "fp16")
    assert Processes("cpu", "bf16").accelerator.mixed_precision == "bf16"
