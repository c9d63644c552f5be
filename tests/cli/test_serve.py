"""`rotanext serve`: its options become those of the server, which is not started here."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve: pip install 'rotanext[serve]'")

from rotanext.serve import server
from rotanext.serve.limits import Limits
from rotanext.serve.server import ServeOptions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the server is called with."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.delenv("ROTANEXT_TOKEN", raising=False)
    monkeypatch.setattr(server, "serve", lambda *given: calls.append(given))
    return calls


def test_defaults(asked: list[tuple[Any, ...]], cli: Callable, tiny_weights: Path) -> None:
    done = cli("serve", "-w", tiny_weights)
    assert done.code == 0, done.err
    ((detector, options, _),) = asked
    assert detector.class_names == ("plane", "ship")
    assert options == ServeOptions("127.0.0.1", 8000, None, None, Limits(100_000_000, 64_000_000, 60, 8))


def test_all_options(asked: list[tuple[Any, ...]], cli: Callable, tiny_weights: Path) -> None:
    options = (
        "--host", "0.0.0.0", "--port", 0, "--token", "secret", "--max-upload", 0.5, "--max-pixels", 1000, "--timeout", 1.5,
        "--concurrency", 2, "--batch", 4, "--image-size", 0, "--tile", 96, "--overlap", 32, "--device", "cpu",
        "--precision", "bf16", "--anchors", "v1",
    )  # fmt: skip
    done = cli("serve", "-w", tiny_weights, *options)
    assert done.code == 0, done.err
    ((detector, found, _),) = asked
    assert found == ServeOptions("0.0.0.0", 0, "secret", 4, Limits(500_000, 1000, 1.5, 2))
    assert (detector.config.predict.tile, detector.config.head.anchors, detector.precision) == (96, "v1", "bf16")


def test_the_token_may_be_in_the_environment(
    asked: list[tuple[Any, ...]], cli: Callable, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTANEXT_TOKEN", "hidden")
    assert cli("serve", "-w", tiny_weights).code == 0
    assert cli("serve", "-w", tiny_weights, "--token", "shown").code == 0
    assert [options.token for _, options, _ in asked] == ["hidden", "shown"]


@pytest.mark.parametrize(
    "options",
    [("--port", 65536), ("--max-upload", 0), ("--max-pixels", 0), ("--timeout", 0), ("--concurrency", 0), ("--batch", 0)],
    ids=lambda options: options[0],
)
def test_values_out_of_range(options: tuple[Any, ...], asked: list[tuple[Any, ...]], cli: Callable, tiny_weights: Path) -> None:
    done = cli("serve", "-w", tiny_weights, *options)
    assert done.code == 2
    assert options[0] in done.err
    assert asked == []


def test_a_missing_library_names_the_extra(cli: Callable, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rotanext.serve.server", None)
    done = cli("serve", "-w", tiny_weights)
    assert done.code == 2
    assert "pip install 'rotanext[serve]'" in done.err
