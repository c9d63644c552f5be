"""What every command has in common: --json, --quiet, NO_COLOR, exit codes, completion; and the hooks before a commit."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import rotanext.cli.main
from places import ROOT
from rotanext.errors import EXIT_CODES
from terminal import COLOUR, SOURCE, START, on_terminal
from tiny import TINY, draw_dataset


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its name, those of groups, too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(commands(typer.main.get_command(rotanext.cli.main.app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_quiet(name: str) -> None:
    options = [option for parameter in COMMANDS[name].params for option in parameter.opts]
    assert "--quiet" in options
    assert "-q" in options


def test_json_of_predict_and_split(cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = ("--weights", tiny_weights, "--out", tmp_path / "out", "--device", "cpu", "--score", 0, "--draw", 0.001, "--json")
    done = cli("predict", tiny_dataset / "val/images", *options)
    assert done.code == 0
    result = json.loads(done.out)
    assert result["images"] == 2
    assert result["objects"] == sum(result["classes"].values()) > 0
    assert set(result["classes"]) <= {"plane", "ship"}
    assert result["skipped"] == 0
    assert "results are in" in done.err
    done = cli(
        "split", tiny_dataset / "val", tmp_path / "tiles", "--size", 40, "--overlap", 10, "--workers", 1, "--json", "--quiet"
    )
    assert json.loads(done.out)["images"] == 2
    assert done.err == ""


def test_json_stays_away_from_errors(cli: Callable, tmp_path: Path) -> None:
    done = cli("predict", tmp_path / "none.png", "--weights", tmp_path / "none.safetensors", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")


def test_quiet_says_only_what_was_skipped(cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = (*TINY, "--data", tiny_dataset / "train", "--device", "cpu")
    done = cli("train", "small", *options, "--run", folder, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (folder / "last.safetensors").is_file()
    root = draw_dataset(tmp_path / "data", 2)
    (root / "labelTxt/p0.txt").write_text("1 2 nan 4 5 6 7 8 ship 0\n")
    done = cli("train", "small", *TINY, "--data", root, "--device", "cpu", "--run", tmp_path / "other", "-q")
    assert done.code == 1
    assert done.err.startswith("Skipped 1 invalid item")
    done = cli("train", "smal", "-q")
    assert (done.code, done.err.startswith("error: ")) == (2, True)
    done = cli("predict", tiny_dataset / "val/images", "--weights", tiny_weights, "--out", tmp_path / "out", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert "results are in" in cli("predict", tiny_dataset / "val/images", "--weights", tiny_weights, "--out", tmp_path / "out").err


@pytest.mark.parametrize("arguments", [("train", "smal"), ("predict", "--help")], ids=["error", "help"])
def test_no_color(arguments: tuple[str, ...]) -> None:
    assert COLOUR.search(on_terminal(*arguments)), "the test itself: there is colour without NO_COLOR"
    assert not COLOUR.search(on_terminal(*arguments, NO_COLOR="1"))


def test_exit_codes_are_documented_once() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE))
    assert {int(code): text.partition(";")[0].rstrip(".") for code, text in table.items()} == EXIT_CODES
    assert not re.search(r"^\| 130 \|", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_a_closed_pipe_is_code_141() -> None:
    command = shlex.join([*START, "info"])
    script = f"set -o pipefail; {command} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PYTHONPATH": SOURCE}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "141", done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [("rotanext tr", ["train"]), ("rotanext predict --wei", ["--weights"]), ("rotanext info --", ["--json", "--quiet", "--help"])],
)
def test_completion(words: str, expected: list[str]) -> None:
    count = len(words.split()) - 1
    environment = {"PYTHONPATH": SOURCE, "_ROTANEXT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = subprocess.run(START, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert set(expected) <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script(shell: str, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = cli("--show-completion", shell)
    assert done.code == 0, done.err
    assert "_ROTANEXT_COMPLETE" in done.out


def test_completion_is_installed(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": SOURCE, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [*START, "--install-completion", "bash"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert any("_ROTANEXT_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_hooks_before_a_commit() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local", "no hub is needed to commit"
    assert {hook["id"] for hook in repository["hooks"]} == {"ruff-format", "ruff-check", "mypy", "codespell", "import-linter"}
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        program = shlex.split(hook["entry"])[0]
        assert shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"), program


def test_spelling() -> None:
    program = Path(sys.executable).with_name("codespell")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    text = [
        name
        for name in files
        if Path(name).suffix in (".md", ".py", ".toml", ".yml", ".yaml", ".ipynb") and (ROOT / name).is_file()
    ]
    if not text:
        pytest.skip("no git here to tell which files belong to the project")
    done = subprocess.run([program, *text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
