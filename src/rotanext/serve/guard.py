"""What surrounds every answer: headers that keep browsers safe, and the figures of requests."""

import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rotanext.serve.answers import refusal
from rotanext.serve.metrics import Metrics

_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_PATHS = ("/predict", "/health", "/about", "/metrics", "/openapi.json", "/")


class KnownHosts:
    """ASGI middleware: 400 for requests to another name than the server's own (`names`; None: any is right).

    A page elsewhere whose own name leads to this machine (DNS rebinding) is of the same origin for a browser; its name tells.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] | None) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or self.names is None or _host_name(Headers(scope=scope).get("host", "")) in self.names:
            return await self.app(scope, receive, send)
        answer = refusal(400, "this server does not go by the name in the header Host; it answers to loopback's names")
        await answer(scope, receive, send)


def _host_name(host: str) -> str:
    """`name:port`, `name`, `[address]:port` or `[address]` without port and brackets, in small letters."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower()


class Guard:
    """ASGI middleware: security headers on every answer, and one line of the metrics for each."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status = time.monotonic(), 500

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, guarded)
        finally:
            path = scope["path"]
            known = path if path in _PATHS else "/page" if path.startswith("/page/") else "other"
            self.metrics.requests.labels(known, str(status)).inc()
            self.metrics.seconds.labels(known).observe(time.monotonic() - start)
