"""`rotanext train`: what cannot start, what is skipped, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from networks import TIMM
from rotanext.training.folder import state_files
from terminal import SOURCE
from tiny import TINY, draw_dataset


def start(*arguments: object, cwd: Path) -> "subprocess.Popen[str]":
    """`rotanext ARGUMENTS` as a process of its own."""
    command = [sys.executable, "-c", "from rotanext.cli.main import main; main()", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


BAD_TRAININGS = [
    ((), "a recipe is needed: aligned_convnext-tiny_100e-aug_dota, "),
    (("demmo", "--data", "{data}"), "no recipe 'demmo'; nearest: 'demo'"),
    (("demo",), "no training data: give --data FOLDER"),
    (("demo", "--data", "{data}", "train.epoch=3"), "unknown key 'train.epoch'; nearest: 'train.epochs'"),
    (("demo", "--data", "{data}", "train.epochs=many"), "train.epochs = 'many': Input should be a valid integer"),
    (("demo", "--data", "{data}", "train.epochs=0"), "train.epochs = 0: "),
    (("demo", "--data", "{data}", "epochs"), "expected KEY=VALUE"),
    (("demo", "--data", "{data}", "backbone.name=convnext_tinny"), "nearest: 'convnext_tiny'"),
    (("demo", "--data", "{data}", *TIMM, "backbone.name=resnet5"), "timm has no model 'resnet5'"),
    (("demo", "--data", "{data}", "backbone.weights={tmp}/none.pth"), "none.pth: found No such file"),
    (("demo", "--data", "{data}", "data.classes=dota3.0"), "dota3.0: found no such class list"),
    (
        ("demo", "--data", "{data}", "train.precision=fp16", "--device", "cpu"),
        "train.precision is fp16, which trains on GPUs only; this is a CPU. Use train.precision=bf16, or fp32.",
    ),
    (("demo", "--data", "{data}", "--device", "cuda:99"), "device 'cuda:99' cannot be used"),
    (("demo", "--data", "{tmp}/none"), "none: found no such folder"),
    (("demo", "--data", "{tmp}/empty"), "empty/images: found no such folder"),
    (("demo", "--data", "{data}", "--val", "{tmp}/none"), "none: found no such folder"),
    (("demo", "--data", "{data}", "--run", "{tmp}/file"), "file: found a file; expected a folder to write results to"),
    (("demo", "--data", "{data}", "--run", "{run}"), "already holds a training; go on with --resume"),
    (("{tmp}/none.toml",), "none.toml: no such file"),
    (("{tmp}/bad.toml",), "bad.toml: not valid TOML"),
    (("{tmp}/list.json", "train.epochs=3"), "list.json: found a list; expected sections"),
    (("{tmp}/part.toml", "train.epochs=3", "backbone.name=x"), "part.toml: key 'data' is missing"),
    (("{tmp}/latin.toml",), "latin.toml: cannot be read as text"),
    (("--resume", "{run}", "train.epochs=9"), "train.epochs is 2 there, not 9"),
    (
        ("demo", "--run", "{run}", "--go-on", "train.epochs=9"),
        "--resume takes everything from the run's folder, and so does --go-on: ",
    ),
    (("--resume", "{run}", "train.keep=0"), "train.keep = 0: Input should be greater than or equal to 1"),
    (("--resume", "{run}", "small"), "--resume takes everything from the run's folder"),
    (("--resume", "{run}", "--data", "{data}"), "--resume takes everything from the run's folder"),
    (("--resume", "{tmp}/none"), "is not the folder of a training run"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_TRAININGS, ids=[message[:30] for _, message in BAD_TRAININGS])
def test_trainings_that_cannot_start(
    arguments: tuple[str, ...],
    message: str,
    cli: Callable,
    tiny_dataset: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "bad.toml").write_text("name = \n")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "part.toml").write_text("name = 'x'\nmodel = 3\n")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'\n")
    kept = [path.stat().st_mtime_ns for path in state_files(tiny_run)]
    values = [argument.format(data=tiny_dataset / "train", tmp=tmp_path, run=tiny_run) for argument in arguments]
    done = cli("train", *values)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert [path.stat().st_mtime_ns for path in state_files(tiny_run)] == kept


def test_a_training_from_the_command_line(cli: Callable, tiny_dataset: Path, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data [0]", 2)
    label = root / "labelTxt/p0.txt"
    label.write_text("\ufeffimagesource:x\r\ngsd:0.1\r\n" + label.read_text().replace(" ", "\t") + "1 2 nan 4 5 6 7 8 ship 0\r\n")
    folder = tmp_path / "a folder of a rather long name so that a line with it has more than eighty columns" / "run"
    done = cli("train", "small", *TINY, "--data", root, "--val", tiny_dataset / "val", "--run", folder, "--device", "cpu")
    assert done.code == 1, done.err
    assert f"{label}:5: found nan; expected a finite number" in done.err
    assert f"1 step on cpu; files in {folder}\n" in done.err
    assert "epoch 1: map50 " in done.err
    assert (folder / "best.safetensors").is_file()
    done = cli("train", "--resume", folder, "--device", "cpu")
    assert done.code == 1, done.err
    assert "this training is complete" in done.err
    strict = cli("train", "small", *TINY, "--data", root, "--run", tmp_path / "strict", "--strict", "--device", "cpu")
    assert strict.code == 2
    assert "found nan" in strict.err


def test_ctrl_c_saves_and_says_how_to_resume(tiny_dataset: Path, tmp_path: Path) -> None:
    arguments = (
        *TINY,
        "train.epochs=5000",
        "data.workers=1",
        "train.ema=0.0",
        "--data",
        tiny_dataset / "train",
        "--run",
        "run",
        "--device",
        "cpu",
    )
    process = start("train", "demo", *arguments, cwd=tmp_path)
    try:
        for _ in range(600):
            if (tmp_path / "run/metrics.jsonl").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the loader's worker, too
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "everything is saved." in err
    assert "Go on with: rotanext train --resume run\n" in err
    for name in (state_files(tmp_path / "run")[0], "last.safetensors", "config.json", "curves.png"):
        assert (tmp_path / "run" / name).stat().st_size > 100
