"""Hostile inputs for every reader, and proof that the harness notices what it is there to notice."""

import faulthandler
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fuzz
from fuzz import Reader, campaign, make_input
from fuzz_inputs import mutate_text
from process_memory import status
from rotanext.errors import UserError


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_every_reader(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """So many inputs of each, fewer of slow ones; the whole seeds come first."""
    command = [sys.executable, str(Path(fuzz.__file__)), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with capsys.disabled():
        print("\n" + done.stdout.rstrip())
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def refuse(path: Path) -> None:
    raise UserError(f"{path}: found nothing; expected something.")


def _boom(path: Path) -> None:
    raise KeyError("planted")


def _nameless(path: Path) -> None:
    raise UserError("something is wrong somewhere")


def _hang(path: Path) -> None:
    while True:
        time.sleep(0.1)


def _greedy(path: Path) -> None:
    block = mmap.mmap(-1, fuzz.MEMORY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    block.close()
    refuse(path)


def _fault(path: Path) -> None:
    faulthandler.disable()  # pytest's own, which would print all its threads
    os.kill(os.getpid(), signal.SIGSEGV)


def _leave(path: Path) -> None:
    os._exit(0)


def _obey(path: Path) -> None:
    os.system("true")


def _plant_a_file(path: Path) -> None:
    Path(fuzz.CANARY).touch()


def _write_elsewhere(path: Path) -> None:
    (path.parent.parent / f"{path.parent.name}.planted").write_text("")
    (path.parent.parent / f"{path.parent.name}.planted").unlink()


def _evaluate(path: Path) -> None:
    eval("'canary'")


def _print_traceback(path: Path) -> None:
    os.write(2, b"Traceback (most recent call last):\n")


def _invalid(path: Path) -> None:
    assert np.isfinite(np.nan)


PLANTED: tuple[tuple[Callable[[Path], Any], str], ...] = (
    (_boom, "KeyError at test_fuzz.py"),
    (_nameless, "names no file"),
    (_hang, "no answer in 1 s"),
    (_greedy, "GB"),
    (_fault, "killed by signal 11"),
    (_leave, "exit code 0"),
    (_obey, 'obeyed: ["os.system'),
    (_plant_a_file, "obeyed: canary"),
    (_write_elsewhere, 'obeyed: ["open for writing'),
    (_evaluate, "obeyed: ['compile"),
    (_print_traceback, "a traceback on stderr"),
    (_invalid, "AssertionError"),
)


@pytest.mark.parametrize(("harm", "found"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_the_harness_notices(harm: Callable[[Path], Any], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One input of ten does harm; that one is reported, and the others are tried all the same."""

    def read(path: Path) -> None:
        if path.read_bytes() == b"5":
            harm(path)
        else:
            refuse(path)

    def numbered(rng: Any, seeds: Any) -> bytes:
        return b"5" if rng.random() == special else b"x"

    monkeypatch.setattr(fuzz, "MEMORY", fuzz.MEMORY + status("VmRSS"))  # this process holds what earlier tests left
    name = "planted"
    special = fuzz.Random(f"{name}/0/5").random()
    outcome = campaign(Reader(name, lambda: (), numbered, read, "a.txt"), seed=0, count=10, timeout=1.0 if harm is _hang else 60.0)
    assert [failure.index for failure in outcome.failures] == [5]
    assert found in outcome.failures[0].what
    assert (outcome.tried, outcome.refused) == (10, 9)


def test_a_refused_seed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a reader that refuses everything would pass."""
    monkeypatch.setattr(fuzz, "MEMORY", fuzz.MEMORY + status("VmRSS"))
    outcome = campaign(Reader("strict", lambda: (b"whole",), mutate_text, refuse, "a.txt"), seed=0, count=5)
    assert [failure.what for failure in outcome.failures] == ["a seed, which is whole, was refused"]


def test_a_crash_on_whole_files_is_a_failure() -> None:
    """They are read once before the first input is told."""
    outcome = campaign(Reader("crash", lambda: (b"whole",), mutate_text, _leave, "a.txt"), seed=0, count=5)
    assert outcome.failures
    outcome = campaign(Reader("crash", lambda: (b"whole",), mutate_text, _fault, "a.txt"), seed=0, count=5)
    assert outcome.failures


def test_an_input_is_made_from_its_number() -> None:
    reader = Reader("any", lambda: (b"1 2 3\n",), mutate_text, refuse, "a.txt")
    inputs = [make_input(reader, reader.seeds(), 7, index) for index in range(100)]
    assert inputs == [make_input(reader, reader.seeds(), 7, index) for index in range(100)]
    assert len(set(inputs)) > 60
    assert inputs != [make_input(reader, reader.seeds(), 8, index) for index in range(100)]
