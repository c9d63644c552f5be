"""What is shown of a training's pace."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from rotanext.system import progress
from rotanext.system.progress import Display


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3540, "59 min"), (3600, "1 h 00 min"), (11100, "3 h 05 min")]
)
def test_times(seconds: float, text: str) -> None:
    assert progress._spelt(seconds) == text


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
