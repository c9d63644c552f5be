"""The command line as a whole: help, renamed options, exit codes, and what a start imports."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import rotanext.cli.main
import rotanext.training.train
from rotanext.errors import UserError
from terminal import SOURCE

COMMANDS = (
    "demo",
    "train",
    "eval",
    "predict",
    "serve",
    "split",
    "convert",
    "export",
    "info",
    "labels",
    "labels convert",
    "labels check",
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, cli: Callable) -> None:
    done = cli(*command.split(), "--help")
    assert done.code == 0
    assert "Usage" in done.out
    if not command:
        assert all(re.search(rf"\b{name.split()[0]}\b", done.out) for name in COMMANDS)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("what [bold]you[/bold] did"), 2, "error: what [bold]you[/bold] did\n"),
        (PermissionError(13, "Permission denied", "/nowhere/x"), 2, "Permission denied: '/nowhere/x'"),
        (MemoryError(), 2, "out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), 2, "Use a smaller train.batch_size"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["user", "os", "memory", "device-memory", "ctrl-c"],
)
def test_exit_codes(error: BaseException, code: int, message: str, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("rotanext.system.facts.environment", fail)
    done = cli("info")
    assert done.code == code
    assert message in done.err


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug")], ids=["runtime", "key"])
def test_a_fault_of_the_program_shows_where(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("rotanext.system.facts.environment", fail)
    monkeypatch.setattr("sys.argv", ["rotanext", "info"])
    with pytest.raises(SystemExit) as stop:
        rotanext.cli.main.main()
    assert stop.value.code == 3
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "a bug" in said
    assert "rotanext info --json" in said


def test_usage_errors_name_the_option(cli: Callable) -> None:
    done = cli("predict", "x.png")
    assert done.code == 2
    assert "--weights" in done.err
    assert cli("nonsense").code == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("eval", "data", "--gap", "200"), "--overlap"),
        (("predict", "x.png", "-w", "y", "--gap=200"), "--overlap"),
        (("predict", "x.png", "-w", "y", "--no-pictures"), "--no-images"),
        (("predict", "--pictures", "x.png", "-w", "y"), "--images"),
        (("serve", "-w", "y", "--gap", "200"), "--overlap"),
        (("split", "a", "b", "--gap", "200"), "--overlap"),
        (("labels", "convert", "a", "b", "--pictures", "copy"), "--place-images"),
        (("split", "a", "b", "--overlp", "200"), "--overlap"),  # by its spelling
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else value,
)
def test_an_option_that_is_not_there_names_the_one_that_is(arguments: tuple[str, ...], named: str, cli: Callable) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert named in done.err


def test_renamed_options_lead_to_options_that_exist() -> None:
    for command, options in rotanext.cli.main.RENAMED.items():
        found: Any = typer.main.get_command(rotanext.cli.main.app)
        for word in command.split():
            found = found.commands[word]
        known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(options.values()) <= known
        assert not set(options) & known


IMPORTED = """
import sys
from rotanext.cli.main import main
sys.argv = ["rotanext", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print(*({"torch", "matplotlib", "numba", "cv2"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [(("--help",), ""), (("train", "--help"), ""), (("split", "{data}", "{tmp}/tiles", "--workers", "1", "--quiet"), "cv2")],
    ids=["help", "help of a command", "split"],
)
def test_a_start_loads_no_more_than_it_needs(arguments: tuple[str, ...], loaded: str, tiny_dataset: Path, tmp_path: Path) -> None:
    words = [word.format(data=tiny_dataset / "val", tmp=tmp_path) for word in arguments]
    environment = os.environ | {"PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", IMPORTED, *words], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == loaded
