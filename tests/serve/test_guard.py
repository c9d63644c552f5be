"""What surrounds every answer: headers, the names that the server goes by, and figures."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from rotanext.serve import guard
from rotanext.serve.app import create_app
from rotanext.serve.metrics import Metrics
from serving import LIMITS, Server, spread_detector


def test_headers_keep_browsers_safe(server: Server) -> None:
    for path in ("/", "/page/main.js", "/about", "/nothing"):
        headers = server.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert server.client.get("/page/main.js").headers["content-type"].startswith("text/javascript")
    assert server.client.head("/").status_code == 200


def test_a_name_that_was_made_to_lead_here(tiny_weights: Path) -> None:
    app = create_app(spread_detector(tiny_weights), LIMITS, batch=1, hosts=("localhost", "::1"))
    try:
        with TestClient(app, base_url="http://rebound.example") as client:
            for path in ("/health", "/openapi.json", "/", "/nothing"):
                refused = client.get(path)
                assert refused.status_code == refused.json()["status"] == 400
                assert refused.headers["content-type"] == "application/problem+json"
                assert refused.headers["x-frame-options"] == "DENY"
            assert client.get("/health", headers={"host": ""}).status_code == 400
            for host in ("localhost:8000", "LOCALHOST", "[::1]:8000", "[::1]"):
                assert client.get("/health", headers={"host": host}).status_code == 200, host
    finally:
        app.state.service.close()


NAMES = (  # the header Host, and the name in it
    ("localhost", "localhost"),
    ("LocalHost:8000", "localhost"),
    ("127.0.0.1:80", "127.0.0.1"),
    ("[::1]:8000", "::1"),
    ("[::1]", "::1"),
    ("", ""),
    ("[", ""),
    ("localhost.evil.example", "localhost.evil.example"),
)


@pytest.mark.parametrize(("host", "name"), NAMES)
def test_names_in_the_header_host(host: str, name: str) -> None:
    assert guard._host_name(host) == name


@pytest.mark.parametrize(("names", "status"), [(None, 200), (["localhost"], 400), (["other.example"], 200)])
def test_known_hosts(names: list[str] | None, status: int) -> None:
    answer = TestClient(guard.KnownHosts(PlainTextResponse("x"), names), base_url="http://Other.example:1").get("/")
    assert answer.status_code == status
    assert status == 200 or answer.headers["content-type"] == "application/problem+json"


PATHS = (  # a path, and what the figures call it: of a short, fixed list, whatever is asked for
    ("/predict", "/predict"),
    ("/", "/"),
    ("/page/main.js", "/page"),
    ("/page", "other"),
    ("/predict/x", "other"),
    ("/" + "x" * 1000, "other"),
)


@pytest.mark.parametrize(("path", "name"), PATHS)
def test_each_answer_is_counted(path: str, name: str) -> None:
    metrics = Metrics([])
    assert TestClient(guard.Guard(PlainTextResponse("x", 418), metrics)).get(path).status_code == 418
    text = metrics.text().decode()
    assert f'rotanext_requests_total{{path="{name}",status="418"}} 1.0' in text
    assert f'rotanext_request_seconds_count{{path="{name}"}} 1.0' in text


def test_headers_are_set_and_an_answer_s_own_caching_stays() -> None:
    for own, wanted in (({}, "no-store"), ({"Cache-Control": "no-cache"}, "no-cache")):
        inner = PlainTextResponse("x", headers=own | {"X-Frame-Options": "ALLOWALL"})
        headers = TestClient(guard.Guard(inner, Metrics([]))).get("/").headers
        assert headers["cache-control"] == wanted
        for name, value in guard.HEADERS.items():
            assert headers.get_list(name) == [value]


def test_a_failure_counts_as_500_and_is_not_swallowed() -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    metrics = Metrics([])
    with pytest.raises(ZeroDivisionError):
        TestClient(guard.Guard(broken, metrics)).get("/health")
    assert 'rotanext_requests_total{path="/health",status="500"} 1.0' in metrics.text().decode()
