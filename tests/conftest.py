"""Fixtures every test file may use."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmrotate_files import reference_weights

if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels run on the CPU; read when triton is imported, which torch may do

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from rich.console import Console

from places import ROOT
from rotanext import ops
from rotanext.errors import Problems
from rotanext.ops import jit, reference
from rotanext.training import train
from rotanext.training.train import start_training
from tiny import Outcome, draw_dataset, tiny_config

# Other programs may be at work beside the tests: how long an example takes says nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and reference outputs beside the project; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder ../shared (real images, whose licences forbid copying them here) is not on this machine")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _freed_memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings within the tests' own process leave its allocator alone: what it keeps, it keeps for all tests that follow."""
    monkeypatch.setattr(train, "keep_freed_memory", lambda: True)


def _implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs every test that uses it on the compiled operators and on the readable ones."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "reference":
            patch.setattr(ops, "implementation", lambda device: reference)
        yield


implementation = pytest.fixture(_implementation, scope="module", params=["compiled", "reference"])  # for whole files
each_implementation = pytest.fixture(_implementation, params=["compiled", "reference"])  # for single tests


@pytest.fixture
def three_threads() -> Iterator[None]:
    """torch, and the operators with it, computes in three threads; `make test` gives it one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pools(three_threads: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three threads, for however little work; the list of how many were used at each step."""
    used: list[int] = []
    monkeypatch.setattr(jit, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(jit, "pool", lambda threads: used.append(threads) or ThreadPoolExecutor(threads))
    return used


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the DOTA folders train (four images) and val (two)."""
    root = tmp_path_factory.mktemp("tiny")
    draw_dataset(root / "train", 4)
    draw_dataset(root / "val", 2, seed=1)
    return root


@pytest.fixture(scope="session")
def tiny_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training of two epochs; read it, do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config(tiny_dataset / "train", tiny_dataset / "val", "train.epochs=2", "train.validate_every=1")
    start_training(config, folder, "cpu", Problems(strict=True), Console(quiet=True))
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tiny_run: Path) -> Path:
    """A detector of the classes plane and ship, in our own format; all its scores are near 0.01."""
    return tiny_run / "last.safetensors"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `rotanext ARGUMENTS` in this process."""
    from rotanext.cli.main import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["rotanext", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        streams = capsys.readouterr()
        assert "Traceback" not in streams.out + streams.err
        return Outcome(code, streams.out, streams.err)

    return run


@pytest.fixture(scope="module")
def mmrotate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes checkpoints in MMRotate's layout: a ConvNeXt-atto of 15 classes unless told otherwise."""
    weights: dict[int, dict[str, torch.Tensor]] = {}
    folder = tmp_path_factory.mktemp("mmrotate")

    def write(name: str, meta: dict[str, Any], classes: int = 15, drop: str = "-", add: str = "") -> Path:
        if classes not in weights:
            weights[classes] = reference_weights("convnext_atto", classes)
        kept = {key: value for key, value in weights[classes].items() if drop not in key}
        if add:
            kept[add] = torch.zeros(3)
        torch.save({"meta": meta, "state_dict": kept, "optimizer": {"state": {}, "param_groups": []}}, folder / name)
        return folder / name

    return write
