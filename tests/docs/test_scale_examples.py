"""The commands, the SLURM script and the Kubernetes manifest of docs/scale.md, as far as a desk allows."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from torch.distributed.run import get_args_parser

from places import ROOT
from rotanext.cli.main import app
from rotanext.config import Config, load_config, recipe_names

DOCS = ROOT / "docs"
SLURM, KUBERNETES, TEXT = DOCS / "examples/train.slurm", DOCS / "examples/train.k8s.yaml", DOCS / "scale.md"


def lines_of(path: Path) -> list[str]:
    """Its lines, continued ones joined."""
    return path.read_text().replace("\\\n", " ").splitlines()


def torchrun(arguments: list[str]) -> tuple[Any, dict[str, Any], Config]:
    """What torchrun understands of its arguments, what our command line does of the rest, and the configuration that gives."""
    parsed = get_args_parser().parse_args(arguments)
    assert parsed.module
    assert parsed.training_script == "rotanext"
    return parsed, *ours([part for part in parsed.training_script_args if part != "--"])


def ours(arguments: list[str]) -> tuple[dict[str, Any], Config]:
    command: Any = typer.main.get_command(app)
    assert arguments[0] == "train"
    values = command.commands["train"].make_context("train", arguments[1:]).params
    recipe = recipe_names()[0] if values["recipe"] == "RECIPE" else values["recipe"]
    return values, load_config(recipe, list(values["overrides"] or []))


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all(KUBERNETES.read_text())}


def test_the_slurm_script_is_valid() -> None:
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", SLURM], check=False).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", SLURM.read_text(), re.MULTILINE))
    (line,) = [line for line in lines_of(SLURM) if "torchrun" in line]
    words = shlex.split(line.replace("$SLURM_NNODES", options["nodes"]).rstrip("& "))
    parsed, values, config = torchrun(words[words.index("torchrun") + 1 :])
    assert parsed.nnodes == options["nodes"]
    assert parsed.nproc_per_node == options["gpus-per-node"]
    assert options["ntasks-per-node"] == "1", "one torchrun a machine"
    assert values["go_on"]
    assert int(options["cpus-per-task"]) >= int(parsed.nproc_per_node) * (config.data.workers + 1)


def test_the_kubernetes_manifest_is_consistent(job: dict[str, Any]) -> None:
    service, spec = job["Service"], job["Job"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    name = job["Job"]["metadata"]["name"]
    parsed, values, config = torchrun(container["args"])
    assert container["command"] == ["torchrun"]
    assert spec["completionMode"] == "Indexed"
    assert parsed.nnodes == str(spec["completions"]) == str(spec["parallelism"])
    assert parsed.nproc_per_node == str(container["resources"]["limits"]["nvidia.com/gpu"])
    # pod 0's name within the headless service, by which all meet
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert parsed.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:29500"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert values["go_on"]
    assert str(values["run"]).startswith("/shared/")
    assert pod["terminationGracePeriodSeconds"] > parsed.shutdown_timeout > 30
    assert int(container["resources"]["limits"]["cpu"]) >= int(parsed.nproc_per_node) * (config.data.workers + 1)


COMMANDS = [line for line in lines_of(TEXT) if line.startswith(("torchrun ", "accelerate launch "))]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_text_are_valid(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "torchrun":
        torchrun(words[1:])
    else:
        from accelerate.commands.launch import launch_command_parser

        parsed = launch_command_parser().parse_args(words[2:])
        assert (parsed.module, parsed.training_script, parsed.use_fsdp) == (True, "rotanext", True)
        ours(parsed.training_script_args)


PREDICTIONS = [line for line in lines_of(TEXT) if line.startswith("rotanext predict ")]


@pytest.mark.parametrize("line", PREDICTIONS)
def test_the_predictions_of_the_text_are_valid(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)
    values = command.commands[words[1]].make_context(words[1], words[2:]).params
    assert (values["ray"] is None) == ("--ray" not in words)
    assert values["out"]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 4
    assert len(PREDICTIONS) >= 4
