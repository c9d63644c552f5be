"""From options to a running server."""

import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from rich.console import Console

from rotanext.cli.main import app as commands
from rotanext.errors import UserError
from rotanext.inference.detector import Detector
from rotanext.serve.guard import KnownHosts
from rotanext.serve.server import ServeOptions, serve
from serving import LIMITS


def test_command_line(cli: Callable[..., Any], tiny_weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = cli("serve", "--weights", tiny_weights, "--port", taken.getsockname()[1])
    assert outcome.code == 2
    assert "Choose another --port" in outcome.err
    assert "empty" in cli("serve", "--weights", tiny_weights, "--token", "", "--port", 0).err
    assert cli("serve", "--weights", tiny_weights, "--port", 0, "--token", "a b").code == 2
    serve = next(command for command in commands.registered_commands if command.callback and command.callback.__name__ == "serve")
    assert serve.callback.__defaults__[0] == "127.0.0.1"  # type: ignore[union-attr, index]


class Stopped(Exception):
    """Where the server would begin to serve."""


def served(detector: Detector, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[str, Any]:
    """What is printed before the server starts, and its application."""
    seen: list[Any] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        assert sockets[0].getsockname()[1] > 0
        seen.append(server.config.app)
        raise Stopped

    monkeypatch.setattr(uvicorn.Server, "run", run)
    options = ServeOptions(**{"host": "127.0.0.1", "port": 0, "token": None, "batch": None, "limits": LIMITS} | changes)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(Stopped):
        serve(detector, options, console)
    seen[0].state.service.close()
    return console.file.getvalue(), seen[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "warns"),
    [({}, False), ({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "token": "x"}, False), ({"host": "localhost"}, False)],
)
def test_whoever_can_reach_it_is_told(changes: dict, warns: bool, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    text, app = served(detector, monkeypatch, **changes)
    assert text.index("warming up") < text.index("serving on http://")
    assert ("anybody who reaches 0.0.0.0 may use this server" in text) is warns
    names = next(one.kwargs["names"] for one in app.user_middleware if one.cls is KnownHosts)
    assert (names is None) is (changes.get("host") == "0.0.0.0")
    assert names is None or {"localhost", "127.0.0.1", "::1"} <= set(names)


@pytest.mark.parametrize(("batch", "wanted"), [(None, 1), (5, 5)])
def test_tiles_at_once_on_a_cpu(batch: int | None, wanted: int, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(detector, monkeypatch, batch=batch)[1].state.service.batch == wanted


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "the token is empty"), ("a b", "no header may hold"), ("é", "no header may hold"), ("a\n", "no header may hold")],
)
def test_tokens_that_no_header_holds(token: str, message: str, detector: Detector) -> None:
    with pytest.raises(UserError, match=message):
        serve(detector, ServeOptions("127.0.0.1", 0, token, None, LIMITS), Console(quiet=True))


def test_addresses_that_cannot_be_used(detector: Detector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for host, port in (("127.0.0.1", taken.getsockname()[1]), ("192.0.2.1", 0), ("no such host", 0)):
            with pytest.raises(UserError, match=rf"^{host}:{port} cannot be used: .*Choose another --port or --host"):
                serve(detector, ServeOptions(host, port, None, None, LIMITS), Console(quiet=True))


def test_the_port_is_free_again_after_a_failure(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as some:
        port = some.getsockname()[1]
    for _ in range(2):
        assert f"serving on http://127.0.0.1:{port}" in served(detector, monkeypatch, port=port)[0]
