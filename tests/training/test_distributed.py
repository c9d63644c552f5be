"""Training in two processes, against one with the doubled batch: real processes, started by torchrun, on gloo."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import two_processes
from places import ROOT, SUPPORT
from rotanext.training.folder import state_files
from rotanext.training.state import newest_state
from tiny import draw_dataset
from two_processes import EQUAL, NOT_FINITE, SIX_STEPS, config_of, equal_to_one, make, not_finite, rows_of, validated

pytestmark = pytest.mark.slow  # each waits for the two processes, which run once for all

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def launch(*command: object, cwd: Path) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(SUPPORT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", seconds: float = 240) -> str:
    """Wait for it; a hang is a failure, and leaves no process behind."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # torchrun ends its own
        try:
            text = process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            text = process.communicate()[0]
        pytest.fail(f"still running after {seconds} s:\n{text[-3000:]}")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60:200] = bytes(140)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "names.txt").write_text("plane\nship\n")
    for name, count in {"even": 6, "uneven": 5, "backgrounds": 4, "damaged": 4, "val": 9}.items():
        draw_dataset(folder / name, count, seed=count)
    for label in ("even/labelTxt/p4", *(f"backgrounds/labelTxt/p{i}" for i in range(3))):
        (folder / f"{label}.txt").write_text("")
    damage(folder / "damaged/images/p2.png")
    damage(folder / "val/images/p4.png")
    yield folder
    shutil.rmtree(folder)  # a gigabyte of states


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, Any]:
    """The same trainings by one process."""
    return equal_to_one(root, 1)


@pytest.fixture(scope="module")
def found(root: Path, alone: dict[str, Any]) -> list[dict[str, Any]]:
    """What the two processes found; see tests/support/two_processes.py."""
    run = shutil.copytree(root / "ddp-1", root / "ddp-1-resumed")
    for path in state_files(run)[:-1]:
        path.unlink()  # only the state after the second step is left
    text = finish(process := launch(*TORCHRUN, two_processes.__file__, root, cwd=root))
    assert process.returncode == 0, text[-6000:]
    return [torch.load(root / f"found-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_are_one_with_twice_the_batch(name: str, found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    one, two = alone[name], found[0]["equal"][name]
    if name in ("ddp", "sharded"):
        assert len(one["rows"]) == 6
    assert len(one["rows"]) == len(two["rows"]) > 0
    low = "bf16" in name
    for expected, row, other in zip(one["rows"], two["rows"], found[1]["equal"][name]["rows"], strict=True):
        assert row == other, "both processes know the figures of all"
        assert row["positives"] == expected["positives"]
        assert row["lr"] == expected["lr"]
        for key in ("loss", "loss_cls", "loss_box"):
            assert row[key] == pytest.approx(expected[key], rel=2e-3 if low else 1e-4, abs=1e-6), (key, row["step"])
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=2e-2 if low else 2e-3)
    assert one["model"].keys() == two["model"].keys()
    assert two["problems"] == one["problems"] == found[1]["equal"][name]["problems"] == (1 if name == "one-damaged" else 0)


def test_each_process_holds_a_part_of_a_sharded_model(found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    parts = [process["equal"]["sharded"]["parts"] for process in found]
    assert sum(parts) == alone["ddp"]["parts"]
    assert max(parts) < 0.6 * sum(parts)
    assert found[0]["equal"]["ddp"]["parts"] == alone["ddp"]["parts"]


@pytest.mark.parametrize("name", ["norms", "sharded norms"])
def test_the_statistics_of_batch_norms_are_those_of_the_whole_batch(
    name: str, found: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    one, two = alone[name]["model"], found[0]["equal"][name]["model"]
    statistics = [key for key in one if "running_" in key]
    assert len(statistics) > 10
    for key in statistics:  # after four steps of Adam, which turn rounding into changes of weights
        torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-4 * float(one[key].abs().max()))
    assert {int(two[key]) for key in two if "num_batches" in key} == {4}  # steps; in the last of an epoch one process has no image


@pytest.mark.parametrize("name", ["resumed", "resumed sharded", "resumed norms", "resumed sharded norms"])
def test_two_processes_resume_bit_for_bit(name: str, found: list[dict[str, Any]]) -> None:
    assert found[0][name] == {"model": True, "averaged": True, "random": True, "processes differ": True}


@pytest.mark.parametrize("name", ["ddp", "sharded"])
def test_one_process_goes_on_where_two_were(name: str, root: Path, found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    run = shutil.copytree(root / f"{name}-2", root / f"{name}-2-resumed")
    for path in state_files(run)[:-1]:
        path.unlink()
    trainer = make(config_of(root, "even", 2, *SIX_STEPS), run)
    trainer.resume()
    assert trainer.progress.step == 2
    for row, expected in zip(rows_of(trainer), alone["ddp"]["rows"][2:], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_two_processes_go_on_where_one_was_and_shard_it(found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert found[0]["from one"]["step"] == 2
    for row, expected in zip(found[0]["from one"]["rows"], alone["ddp"]["rows"][2:], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_a_loss_that_one_process_cannot_compute_is_skipped_by_both(found: list[dict[str, Any]]) -> None:
    for rank, process in enumerate(found):
        bad = process["bad steps"]
        assert (bad["skipped"], bad["same"]) == (1, True)
        assert bad["ends"][:18] == [("", "")] * 18
        kind, message = bad["ends"][18]
        assert kind == ("UserError", "SystemExit")[rank]
        assert rank == 1 or "20 steps in a row had no finite loss" in message


def check_not_finite(steps: list[dict[str, Any]], name: str) -> None:
    assert not steps[0]["same"]
    assert steps[0]["skipped"] == 0
    for number, step in enumerate(steps[1:-1], 1):
        assert step["same"], (name, step)
        assert step["skipped"] == number
        assert step["change of scale"] == (0.5 if "fp16" in name else 1.0)
    assert not steps[-1]["same"]
    assert steps[-1]["skipped"] == len(steps) - 2
    assert all(step["finite"] for step in steps)


@pytest.mark.parametrize("name", NOT_FINITE)
def test_a_gradient_that_is_not_finite_in_one_process_reaches_no_weights(name: str, found: list[dict[str, Any]]) -> None:
    for process in found:
        check_not_finite(process["not finite"][name], name)


@pytest.mark.parametrize("name", [name for name in NOT_FINITE if "sharded" not in name])
def test_a_gradient_that_is_not_finite_reaches_no_weights_of_one_process(name: str, root: Path) -> None:
    check_not_finite(not_finite(root, f"{name}-1", *NOT_FINITE[name]), name)


def test_one_process_that_is_asked_to_stop_stops_both(found: list[dict[str, Any]]) -> None:
    assert [process["stopped"] for process in found] == [3, 3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full", "No space left on device"),
        ("log", "metrics.jsonl: found that it cannot be written"),
        ("gone", "none/images: found that the folder is gone"),
        ("strict", "p2.png: found a file that does not decode"),
        ("data", "none: found no such folder"),
    ],
)
def test_an_error_in_one_process_ends_both_with_one_message(name: str, message: str, found: list[dict[str, Any]]) -> None:
    kind, text = found[0]["failures"][name]
    assert kind == "UserError"
    assert message in text
    assert found[1]["failures"][name] == ("SystemExit", "2")


def test_validation_is_shared_and_gathered_exactly(root: Path, found: list[dict[str, Any]]) -> None:
    expected, _ = validated(root)
    (shared, stopped), nothing = found[0]["validated"], found[1]["validated"]
    assert (nothing, stopped) == (([], True), True)
    assert [stem for stem, _ in shared] == [stem for stem, _ in expected] == [f"p{i}" for i in range(9)]
    for (stem, one), (_, two) in zip(expected, shared, strict=True):
        if stem == "p4":
            assert one == two
            assert "does not decode" in one
        else:
            assert all(map(torch.equal, one, two))
            assert len(one[0]) > 0


def start(root: Path, run: str, *overrides: str, launcher: tuple[object, ...] = TORCHRUN) -> "subprocess.Popen[str]":
    options = (*two_processes.tiny_config.__globals__["TINY"], "train.save_every=1", *overrides)
    return launch(
        *launcher, "-m", "rotanext", "--", "train", "demo", *options,
        "--data", root / "even", "--val", root / "val", "--run", run, "--device", "cpu", "--go-on", cwd=root,
    )  # fmt: skip


def wait_for_state(folder: Path, process: "subprocess.Popen[str]", step: int = 1) -> None:
    for _ in range(1200):
        if process.poll() is not None or any(int(p.stem.split("-")[1]) >= step for p in state_files(folder)):
            return
        time.sleep(0.1)
    finish(process, 1)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sigterm_and_a_killed_process_leave_a_whole_state(root: Path) -> None:
    """The launcher is asked to end; a second training loses one process; a third goes on alone, and to the end."""
    process = start(root, "run", "train.epochs=3000", "train.batch_size=1")
    wait_for_state(root / "run", process)
    process.send_signal(signal.SIGTERM)
    text = finish(process, 60)
    assert process.returncode != 0
    assert text.count("everything is saved.") == 1, text[-3000:]
    reached = newest_state(root / "run", print)["progress"]["step"]

    process = start(root, "run", "train.epochs=3000", "train.batch_size=1")
    wait_for_state(root / "run", process, reached + 1)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    text = finish(process, 60)
    assert process.returncode != 0
    assert "another process of this training has died" in text, text[-3000:]
    state = newest_state(root / "run", print)
    assert state["progress"]["step"] > reached
    assert state["total_batch"] == 2


def test_accelerate_launch_shards_and_finishes(root: Path) -> None:
    accelerate = (sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "2", "--num_machines", "1")
    process = start(root, "launched", "train.batch_size=2", launcher=accelerate)
    text = finish(process)
    assert process.returncode == 0, text[-3000:]
    assert "in 2 processes, sharded" in text
    assert text.count("epoch 1: map50") == 1
    assert newest_state(root / "launched", print)["progress"]["step"] == 2
