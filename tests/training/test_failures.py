"""What may happen to a training from outside: killed anywhere, a full disk, data that vanish, a worker that is killed.

The trainings are real processes with the real command line, forked by tests/support/fork_server.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from networks import backbone_overrides
from places import ROOT, SUPPORT
from rotanext.training.folder import state_files
from rotanext.training.runlog import read_rows
from rotanext.training.state import newest_state
from tiny import TINY, draw_dataset

KILLS = 50
EPOCHS = 36  # of two steps
SHORT = 8  # epochs, where one failure is enough
SETTINGS = (
    *TINY, *backbone_overrides("timm:test_convnext"), "backbone.drop_path=0.3", "augment.brightness=0.2", "train.validate_every=9",
    "train.save_every=1", "train.keep=2", "train.ema=0.9",
)  # fmt: skip


class Command:
    """A running `rotanext` command."""

    def __init__(self, server: "subprocess.Popen[str]", arguments: list[str], log: Path, limit: int | None) -> None:
        assert server.stdin
        assert server.stdout
        self._server, self.log = server, log
        server.stdin.write(json.dumps({"arguments": arguments, "log": str(log), "limit": limit}) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())

    def running(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> bool:
        """Wait for a condition; False where the command ended first."""
        end = time.monotonic() + seconds
        while self.running():
            if condition():
                return True
            assert time.monotonic() < end, f"nothing for {seconds} s:\n{self.log.read_text()}"
            time.sleep(0.003)  # shorter ones would take the time from it
        return False

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        assert self._server.stdin
        assert self._server.stdout
        self.until(lambda: False, 120)
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        return os.waitstatus_to_exitcode(int(self._server.stdout.readline()))


Start = Callable[..., Command]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts `rotanext ARGUMENTS`, one at a time."""
    log = tmp_path_factory.mktemp("logs") / "log"
    path = os.pathsep.join([str(SUPPORT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, str(SUPPORT / "fork_server.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    yield lambda *arguments, limit=None: Command(server, [str(a) for a in arguments], log, limit)
    assert server.stdin
    server.stdin.close()
    server.wait(120)


@pytest.fixture(scope="module")
def data(tiny_dataset: Path) -> Path:
    return tiny_dataset


def options(data: Path, run: Path, epochs: int = SHORT) -> tuple[object, ...]:
    settings = (*SETTINGS, f"train.epochs={epochs}")
    return ("train", "demo", *settings, "--data", data / "train", "--val", data / "val", "--run", run, "--device", "cpu", "--go-on")


@pytest.fixture(scope="module")
def straight(start: Start, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training that nothing happened to."""
    run = tmp_path_factory.mktemp("straight") / "run"
    command = start(*options(data, run))
    assert command.end() == 0, command.log.read_text()
    return run


def step_of(run: Path) -> int:
    files = state_files(run)
    return int(files[0].stem.split("-")[1]) if files else 0


def parts(run: Path) -> list[Path]:
    return [*run.glob(".*.part"), *run.glob("states/.*.part")]


def assert_same_run(run: Path, straight: Path) -> None:
    """Bit for bit the same training: weights, averages, moments, random numbers, log, detectors; nothing left lying about."""
    one, two = newest_state(straight, print), newest_state(run, print)
    assert one["progress"] == two["progress"]
    for part in ("model", "averaged"):
        assert all(torch.equal(one[part][key], two[part][key]) for key in one[part])
    for index, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(value, two["optimizer"]["state"][index][key]) for key, value in moments.items())
    assert torch.equal(one["random"][0]["cpu"], two["random"][0]["cpu"])
    assert read_rows(run / "metrics.jsonl") == read_rows(straight / "metrics.jsonl")
    for name in ("last.safetensors", "best.safetensors"):
        assert (run / name).read_bytes()[-100_000:] == (straight / name).read_bytes()[
            -100_000:
        ]  # the header has the data's folders
    assert [path.name for path in state_files(run)] == [path.name for path in state_files(straight)]
    assert not parts(run)


@pytest.mark.slow
def test_fifty_kills_change_nothing(start: Start, data: Path, tmp_path: Path) -> None:
    """SIGKILL at seeded random moments: while starting, while computing, while a file is half written, while validating."""
    run, straight, rng = tmp_path / "run", tmp_path / "straight", np.random.default_rng(0)
    command = start(*options(data, straight, EPOCHS))
    assert command.end() == 0, command.log.read_text()
    kills = while_writing = 0
    steps = [0]
    while kills < KILLS - 1:
        command = start(*options(data, run, EPOCHS))
        before = step_of(run)
        wanted = int(rng.choice([0, 1, 2], p=[0.4, 0.5, 0.1]))
        if before > 2 * EPOCHS - 8:  # nearly done: from here on it is killed while it starts
            time.sleep(rng.uniform(0, 0.2))
        elif command.until(lambda: step_of(run) >= before + wanted) and rng.random() < 0.5:  # noqa: B023
            command.until(lambda: bool(parts(run)) or step_of(run) > before + 2)  # noqa: B023
        else:
            time.sleep(rng.uniform(0, 0.1 if wanted else 0.6))
        command.kill()
        assert command.end() == -signal.SIGKILL, command.log.read_text()
        kills += 1
        while_writing += bool(parts(run))
        if state_files(run):  # whatever is there is whole, or was not there
            steps.append(newest_state(run, pytest.fail)["progress"]["step"])
            assert steps[-1] >= steps[-2]
    real = subprocess.Popen(
        [sys.executable, "-m", "rotanext", *map(str, options(data, run, EPOCHS))],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    before = step_of(run)
    while real.poll() is None and step_of(run) == before:
        time.sleep(0.002)
    real.kill()
    assert real.wait() == -signal.SIGKILL
    command = start("train", "--resume", run, "--device", "cpu")
    assert command.end() == 0, command.log.read_text()
    assert while_writing >= 5, "too few kills fell into the writing of a file"
    assert len(set(steps)) > 10
    assert_same_run(run, straight)


def test_a_vanished_folder_of_images(start: Start, data: Path, straight: Path, tmp_path: Path) -> None:
    copy = draw_dataset(tmp_path / "data", 4)
    arguments = list(options(data, tmp_path / "run"))
    arguments[arguments.index(data / "train")] = copy
    command = start(*arguments, "data.cache=false")
    command.until(lambda: step_of(tmp_path / "run") >= 5)
    (copy / "images").rename(tmp_path / "elsewhere")
    assert command.end() == 2
    text = command.log.read_text()
    assert f"{copy}/images: found that the folder is gone" in text
    assert f"Go on with: rotanext train --resume {tmp_path / 'run'}" in text
    assert "left out of the training" not in text
    assert "Traceback" not in text
    (tmp_path / "elsewhere").rename(copy / "images")
    command = start("train", "--resume", tmp_path / "run", "--device", "cpu")
    assert command.end() == 0, command.log.read_text()
    assert_same_run(tmp_path / "run", straight)  # no step and no image was lost


def test_a_vanished_folder_of_validation(start: Start, data: Path, straight: Path, tmp_path: Path) -> None:
    """No epoch is scored on what is left of it."""
    copy, run = draw_dataset(tmp_path / "val", 2, seed=1), tmp_path / "run"
    arguments = list(options(data, run))
    arguments[arguments.index(data / "val")] = copy
    command = start(*arguments)
    command.until(lambda: step_of(run) >= 5)
    (copy / "images").rename(tmp_path / "elsewhere")
    assert command.end() == 2
    text = command.log.read_text()
    assert f"{copy}/images: found that the folder is gone" in text
    assert f"Go on with: rotanext train --resume {run}" in text
    (tmp_path / "elsewhere").rename(copy / "images")
    command = start("train", "--resume", run, "--device", "cpu")
    assert command.end() == 0, command.log.read_text()
    assert_same_run(run, straight)


def test_a_loading_process_killed_for_memory(start: Start, data: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = start(*options(data, run), "data.workers=1")
    command.until(lambda: step_of(run) >= 5)
    workers = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    for worker in workers:
        os.kill(int(worker), signal.SIGKILL)
    assert workers
    assert command.end() == 2
    text = command.log.read_text()
    assert text.count("error: ") == 1
    assert "a loading process was killed by SIGKILL, as the system does when memory runs out. Use fewer data.workers" in text
    assert "Traceback" not in text
    command = start("train", "--resume", run, "data.workers=0", "--device", "cpu")
    assert command.end() == 0, command.log.read_text()
    assert_same_run(run, straight)


def test_a_full_disk(start: Start, data: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = start(*options(data, run))
    command.until(lambda: step_of(run) >= 3)
    command.kill()
    command.end()
    reached, kept = step_of(run), [path.read_bytes() for path in state_files(run)]
    command = start(*options(data, run), limit=1 << 20)  # no file above a megabyte: writing fails half-way
    assert command.end() == 2
    text = command.log.read_text()
    assert text.count("error: ") == 1
    assert "could not be written" in text
    assert f"Make room, then go on with: rotanext train --resume {run}" in text
    assert [path.read_bytes() for path in state_files(run)] == kept
    assert newest_state(run, pytest.fail)["progress"]["step"] == reached
    assert not parts(run)
    command = start("train", "--resume", run, "--device", "cpu")
    assert command.end() == 0, command.log.read_text()
    assert_same_run(run, straight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "{run}", "--go-on", "train.lr=0.1"), "--resume takes everything from the run's folder, and so does --go-on"),
        (("--resume", "{run}", "train.lr=0.1"), "train.lr is 0.002 there, not 0.1"),
        (("--resume", "{run}", "train.keeep=1"), "nearest: 'train.keep'"),
    ],
)
def test_what_may_not_change_when_going_on(arguments: tuple[str, ...], message: str, start: Start, straight: Path) -> None:
    values = [argument.format(run=straight) for argument in arguments]
    saved = () if "--resume" in values else ("demo",)
    command = start("train", *saved, *values, "--device", "cpu")
    assert command.end() == 2
    text = command.log.read_text()
    assert message in text
