"""Weights & Biases and MLflow, by stubs of their packages: what they are told, and what happens where they fail."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rotanext.errors import Problems, UserError
from rotanext.training.train import start_training
from tiny import tiny_config

QUIET = Console(quiet=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Packages wandb and mlflow that note what they are asked to do."""
    noted: list[tuple[str, Any]] = []

    def note(name: str) -> Callable[..., Any]:
        return lambda *arguments, **named: noted.append((name, (arguments, named)))

    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    run = SimpleNamespace(log=note("wandb.log"), finish=note("wandb.finish"))
    wandb.init = lambda **named: (note("wandb.init")(**named), run)[1]  # type: ignore[attr-defined]
    wandb.config = SimpleNamespace(update=note("wandb.config"))  # type: ignore[attr-defined]
    started = SimpleNamespace(info=SimpleNamespace(run_id="r7"))
    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    parts = {
        "utils": SimpleNamespace(validation=limits),
        "search_experiments": lambda filter_string: [],
        "create_experiment": lambda **named: "e1",
        "start_run": lambda **named: (note("mlflow.start_run")(**named), started)[1],
        "log_params": note("mlflow.log_params"),
        "log_metrics": note("mlflow.log_metrics"),
        "end_run": note("mlflow.end_run"),
    }
    for name, part in parts.items():
        setattr(mlflow, name, part)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return noted


def named(calls: list[tuple[str, Any]], name: str) -> list[Any]:
    return [value for key, value in calls if key == name]


def test_both_hear_of_a_training(calls: list, tiny_dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_dataset / "train", tiny_dataset / "val", 'train.trackers=["wandb", "mlflow"]')
    start_training(config, tmp_path / "first", "cpu", Problems(), QUIET)
    ((_, init),) = named(calls, "wandb.init")
    assert (init["project"], init["name"], init["dir"]) == ("rotanext", "first", str(tmp_path / "first"))
    ((arguments, _),) = named(calls, "wandb.config")
    assert arguments[0]["train.epochs"] == 1
    logged = [arguments[0] for arguments, _ in named(calls, "wandb.log")]
    assert any("loss" in row for row in logged)
    assert any("map50" in row for row in logged)
    assert len(named(calls, "wandb.finish")) == len(named(calls, "mlflow.end_run")) == 1
    assert len(named(calls, "mlflow.log_metrics")) == len(logged)
    assert not (tmp_path / "first/tensorboard").exists()
    # a resumed training goes on in the same runs
    identity = json.loads((tmp_path / "first/trackers.json").read_text())
    assert identity == {"wandb": init["id"], "mlflow": "r7"}
    start_training(config, tmp_path / "first", "cpu", Problems(), QUIET, resume=True)
    assert named(calls, "wandb.init")[1][1]["id"] == init["id"]
    assert named(calls, "mlflow.start_run")[1][1]["run_id"] == "r7"


def test_a_missing_package(cli: Callable, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # what an absent package looks like to import
    options = ["--data", tiny_dataset / "train", "--run", tmp_path / "run", "--device", "cpu", "--tracker", "wandb"]
    done = cli("train", "demo", *options)
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert "pip install wandb" in done.err
    done = cli("train", "demo", *options[:-1], "clearml")
    assert done.code == 2
    assert "train.trackers = 'clearml'" in done.err


def test_a_service_that_refuses(calls: list, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    config = tiny_config(tiny_dataset / "train", None, 'train.trackers=["wandb"]')
    with pytest.raises(UserError, match=r"could not be started \(no API key\).*WANDB_MODE=offline"):
        start_training(config, tmp_path / "run", "cpu", Problems(), QUIET)


def test_a_service_that_fails_later(calls: list, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the network is gone")

    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", fail)
    console = Console(record=True, quiet=False, file=(tmp_path / "said").open("w"), width=300)
    start_training(
        tiny_config(tiny_dataset / "train", None, 'train.trackers=["mlflow"]'), tmp_path / "run", "cpu", Problems(), console
    )
    said = console.export_text()
    assert said.count("mlflow: the figures could not be sent (the network is gone); going on without it") == 1
    assert (tmp_path / "run/last.safetensors").is_file()
