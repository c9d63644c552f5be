"""From options to a running server."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rotanext.cli.main import app as commands


def test_command_line(cli: Callable[..., Any], tiny_weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = cli("serve", "--weights", tiny_weights, "--port", taken.getsockname()[1])
    assert outcome.code == 2
    assert "Choose another --port" in outcome.err
    assert "empty" in cli("serve", "--weights", tiny_weights, "--token", "", "--port", 0).err
    assert cli("serve", "--weights", tiny_weights, "--port", 0, "--token", "a b").code == 2
    serve = next(command for command in commands.registered_commands if command.callback and command.callback.__name__ == "serve")
    assert serve.callback.__defaults__[0] == "127.0.0.1"  # type: ignore[union-attr, index]
