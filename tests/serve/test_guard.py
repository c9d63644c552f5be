"""What surrounds every answer: headers, the names that the server goes by, and figures."""

from pathlib import Path

from fastapi.testclient import TestClient

from rotanext.serve.app import create_app
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
