"""What is shown of a job's pace, on terminals of any width and in plain lines."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from rotanext.system import progress
from rotanext.system.progress import Display
from terminal import frames, screen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3540, "59 min"), (3600, "1 h 00 min"), (11100, "3 h 05 min")]
)
def test_times(seconds: float, text: str) -> None:
    assert progress.spelt(seconds) == text


def test_the_rate_is_that_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow beginning, or a machine that was busy an hour ago, says nothing about what is left."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    written = io.StringIO()
    row = dict.fromkeys(("loss", "loss_cls", "loss_box", "lr", "grad_norm"), 1.0)
    with Display(Console(file=written, width=200)).training(1000, 0) as tick:
        for step in range(1, 501):
            now[0] += 10.0 if step <= 100 else 0.5
            tick({**row, "step": step})
    first, *_, last = written.getvalue().splitlines()
    assert first.startswith("step 2/")
    assert "0.10 steps/s" in first
    assert "2.00 steps/s, 4 min left" in last


def on_terminal_of(width: int) -> tuple[Display, io.StringIO]:
    written = io.StringIO()
    return Display(Console(file=written, force_terminal=True, width=width, legacy_windows=False, _environ={})), written


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("what", ["training", "an image with a name that is longer than any bar could ever be.png"])
def test_a_bar_is_one_line_however_narrow_the_terminal(width: int, what: str) -> None:
    display, written = on_terminal_of(width)
    with display._shown(what, 120_000) as show:
        for step in (1, 60_000, 120_000):
            show(step, 120_000, "12.34 steps/s, 3 h 05 min left, loss 1.234 (cls 0.617 box 0.617), lr 1.0e-04")
    (line,) = [line for line in screen(written.getvalue(), width) if line]
    assert "120000/120000" in line
    assert len(line) <= width
    assert all(len(frame) <= width for frame in frames(written.getvalue()))
    assert ("lr 1.0e-04" in line) == (width == 200), "where all of it has room, nothing is cut"


def test_a_bar_within_a_bar_goes_when_it_is_done() -> None:
    display, written = on_terminal_of(100)
    for name in display.track(["a.png", "b.png"], "detecting", 2):
        with display.counting(name) as tick:
            tick(1, 4)
            display.say(f"{name} [is] read")  # draws all bars again, below it
            tick(4, 4)
    lines = [line for line in screen(written.getvalue()) if line]
    assert lines[:2] == ["a.png [is] read", "b.png [is] read"]
    assert len(lines) == 3
    assert lines[2].startswith("detecting ")
    assert any(frame.startswith("a.png ") and " 1/4 " in frame and "tiles/s" in frame for frame in frames(written.getvalue()))


def test_every_loss_of_a_row_is_shown_under_its_name() -> None:
    written = io.StringIO()
    row = {"loss": 3.0, "loss_centre": 1.0, "loss_angle": 2.0, "lr": 0.1, "grad_norm": 4.0}
    with Display(Console(file=written, width=200)).training(1, 0) as tick:
        tick({**row, "step": 1})
    assert written.getvalue() == "step 1/1 loss 3 loss_centre 1 loss_angle 2 lr 0.1 grad_norm 4\n"


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {}], ids=["dumb", "a file"])
def test_where_a_line_cannot_be_redrawn_there_are_plain_ones(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)
    written = io.StringIO()
    console = Console(file=written, width=80, force_terminal=bool(environment) or None, _environ=environment)
    assert [*Display(console).track("abc", "reading", 3, "letters", lambda letter: 2)] == ["a", "b", "c"]
    lines = written.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["reading:", f"{n}/3,"] for n in (1, 2, 3)]
    assert all("letters/s" in line for line in lines)


def test_archives_count_scenes_and_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    written = io.StringIO()
    with Display(Console(file=written, width=200)).archive(4) as tick:
        for finished, computed in ((None, 30), (1, None)):
            now[0] += 20.0
            tick(finished, computed)
    assert written.getvalue().splitlines() == ["scenes: 0/4, 1.5 tiles/s", "scenes: 1/4, 0.8 tiles/s, 2 min left"]


def test_a_quiet_console_shows_nothing() -> None:
    written = io.StringIO()
    display = Display(Console(file=written, force_terminal=True, quiet=True))
    assert [*display.track([1, 2], "reading", 2)] == [1, 2]
    assert written.getvalue() == ""
