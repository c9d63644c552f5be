"""From options to a running server."""

import socket
from dataclasses import dataclass
from ipaddress import ip_address

import uvicorn
from rich.console import Console

from rotanext.errors import UserError
from rotanext.inference.detector import Detector
from rotanext.serve.app import create_app
from rotanext.serve.limits import Limits

GPU_BATCH = 8  # on CPUs several tiles at once are no faster than one after the other: benchmarks/results/serve.md


@dataclass(frozen=True)
class ServeOptions:
    """Where the server listens and what it takes; port 0 is any free one."""

    host: str
    port: int
    token: str | None
    batch: int | None  # None: what suits the device
    limits: Limits


def serve(detector: Detector, options: ServeOptions, console: Console) -> None:
    """Serve until interrupted; raises `UserError` where the address cannot be used."""
    if options.token is not None and (not options.token.isascii() or not options.token.isprintable() or " " in options.token):
        raise UserError("the token has characters that no header may hold; expected printable ASCII without spaces")
    if options.token == "":
        raise UserError("the token is empty; leave out --token, or give it a value")
    listening = _listen(options.host, options.port)
    try:
        host, port = listening.getsockname()[:2]
        batch = options.batch or (1 if detector.device.type == "cpu" else GPU_BATCH)
        hosts = ("localhost", "127.0.0.1", "::1", options.host.lower(), str(host)) if _is_loopback(host) else None
        app = create_app(detector, options.limits, batch=batch, token=options.token, hosts=hosts)
        console.print("warming up", style="dim")
        app.state.service.warm_up()
        if options.token is None and not _is_loopback(host):
            console.print(f"anybody who reaches {host} may use this server; --token asks for one", style="yellow")
        console.print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}")
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, timeout_keep_alive=10, timeout_graceful_shutdown=10, proxy_headers=False
        )
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{host}:{port} cannot be used: {reason}. Choose another --port or --host.") from None
    return listening


def _is_loopback(host: str) -> bool:
    return ip_address(host.split("%")[0]).is_loopback
