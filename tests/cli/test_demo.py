"""`rotanext demo`: its options; what it does is tested in test_demo_run.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rotanext.cli import demo_run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (Path("runs/demo"), "cpu", False)),
        (("--run", "x y", "--device", "cuda:1", "-q"), (Path("x y"), "cuda:1", True)),
    ],
    ids=["defaults", "all"],
)
def test_options(arguments: tuple[str, ...], expected: tuple[Any, ...], cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(demo_run, "run_demo", lambda folder, device, console: asked.append((folder, device, console.quiet)))
    assert cli("demo", *arguments).code == 0
    assert asked == [expected]


def test_it_takes_no_data(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "run_demo", lambda *_: pytest.fail("it ran"))
    assert cli("demo", "folder").code == 2
