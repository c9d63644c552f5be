"""What a person sees: bars with counts, rate and time left on a terminal, plain lines elsewhere, and how a run ends."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rotanext.data.index import READING
from rotanext.system import progress
from terminal import ESCAPE, frames, on_terminal, screen
from tiny import TINY, draw_dataset

BAR = re.compile(r"[━╸╺]{12}")
TILED = ("--image-size", "0", "--tile", "32", "--overlap", "8")  # nine tiles an image


def done(what: str, total: int, unit: str) -> str:
    """The last state of a bar: all of it, the time it took, and the rate."""
    return rf"{what} ━+ {total}/{total} \d:\d\d:\d\d [\d.]+ {unit}/s"


def bars(lines: list[str]) -> list[str]:
    """The bars of the work itself; those of reading the labels before it are looked at, and left out."""
    found = [line for line in lines if BAR.search(line)]
    reading = [line for line in found if line.startswith(READING)]
    assert all(re.fullmatch(rf"{READING} ━+ (\d+)/\1 \d:\d\d:\d\d [\d.]+ images/s", line) for line in reading)
    return [line for line in found if line not in reading]


def test_a_training(tiny_dataset: Path, tmp_path: Path) -> None:
    options = (*TINY, "train.epochs=3", "train.validate_every=1", "--data", tiny_dataset / "train", "--val", tiny_dataset / "val")
    written = on_terminal("train", "demo", *options, "--device", "cpu", "--run", "run", cwd=tmp_path, code=0)
    lines = screen(written)
    (bar,) = bars(lines)  # those of the validations are gone
    assert re.match(done("training", 6, "steps") + r", loss \d+\.\d+ \(", bar)
    at = lines.index(bar)
    before, after = [line for line in lines[:at] if not line.startswith(READING)], lines[at + 1 :]
    assert before[0].startswith("demo: 4 images, 2 classes, ")
    assert [line.partition(":")[0] for line in before[1:]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert any(re.match(r"│ plane +│ +2 │", line) for line in after), "the table of the last validation"
    assert [line for line in after if line][-1] == "figures, curves and the worst failures on one page: run/report.html"
    seen = [line for line in frames(written) if line.startswith("training")]
    assert any(re.search(r" [2-5]/6 .*steps/s, \d+ s left, loss ", line) for line in seen)
    assert max(map(len, frames(written)[:20])) <= 100, "no line is broken by the terminal's edge"


def test_a_training_that_is_piped(cli: Callable, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)
    options = (*TINY, "train.epochs=2", "train.validate_every=1", "--data", tiny_dataset / "train", "--val", tiny_dataset / "val")
    result = cli("train", "demo", *options, "--device", "cpu", "--run", tmp_path / "run")
    lines = result.err.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/4", "2/4", "3/4", "4/4"]
    assert re.search(r" loss \d.* lr .* grad_norm .* [\d.]+ steps/s, \d+ s left$", steps[1])
    assert re.search(r" [\d.]+ steps/s$", steps[3])
    assert len([line for line in lines if re.fullmatch(r"validating: 1/2, [\d.]+ images/s, \d+ s left", line)]) == 2
    assert lines[-1].endswith(f"{tmp_path}/run/report.html")
    assert not ESCAPE.search(result.out + result.err)


DETECTOR = ("-w", "{weights}", "--out", "out", "--device", "cpu", *TILED)
COMMANDS = {
    "predict": (("{data}/images", *DETECTOR), "detecting", "images", "results are in out"),
    "eval": (("{data}", *DETECTOR), "detecting", "images", "figures are in out"),
    "split": (("{data}", "tiles", "--size", "40", "--overlap", "10", "--workers", "1"), "splitting", "tiles", ": tiles"),
    "labels": (("check", "{data}"), "decoding", "images", ""),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_other_commands(command: str, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    arguments, what, unit, end = COMMANDS[command]
    words = [word.format(data=tiny_dataset / "train", weights=tiny_weights) for word in arguments]
    lines = [line for line in screen(on_terminal(command, *words, cwd=tmp_path, code=0)) if line]
    (bar,) = bars(lines)
    assert re.fullmatch(done(what, 4, unit), bar)
    assert lines.index(bar) < len(lines) - 1
    assert lines[-1].endswith(end)
    assert not any(line.startswith("p0.png") for line in lines), "the bars of single images are gone"


@pytest.mark.parametrize("command", COMMANDS)
def test_other_commands_piped(
    command: str, cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)
    arguments, what, unit, end = COMMANDS[command]
    result = cli(command, *(word.format(data=tiny_dataset / "train", weights=tiny_weights) for word in arguments))
    lines = (result.err or result.out).splitlines()
    shown = [line for line in lines if line.startswith(f"{what}: ")]
    assert [line.split()[1] for line in shown] == ["1/4,", "2/4,", "3/4,", "4/4,"]
    assert re.fullmatch(rf"{what}: 1/4, [\d.]+ {unit}/s, \d+ s left", shown[0])
    assert re.fullmatch(rf"{what}: 4/4, [\d.]+ {unit}/s", shown[3])
    assert lines[-1].endswith(end)
    assert not ESCAPE.search(result.out + result.err)
    if command == "predict":
        assert any(re.fullmatch(r"p0\.png: 1/9 tiles, [\d.]+ tiles/s, \d+ s left", line) for line in lines)


def test_an_error_after_a_bar_stands_below_it(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 3)
    (root / "images/p1.png").write_bytes(b"x")
    lines = screen(on_terminal("split", "data", "tiles", "--workers", "1", "--strict", cwd=tmp_path, code=2))
    (bar,) = bars(lines)
    assert re.match(r"splitting [━╸╺]+ 1/3 ", bar)
    assert lines[lines.index(bar) + 1].startswith("error: data/images/p1.png: ")
