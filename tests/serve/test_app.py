"""The service against its own description: whatever schemathesis sends gets an answer that OpenAPI announces."""

import re
import threading
from typing import Any

import httpx
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import positive_data_acceptance

from rotanext.detections import Detections
from rotanext.inference.detector import Detector
from serving import LIMITS, Server, encoded, noise, said

# Text that its schema allows is not yet an image: what 415 and 422 are for.
EXCLUDED: list[CheckFunction] = [positive_data_acceptance]


@pytest.fixture(scope="module")
def description(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize(("method", "path"), [("POST", "/predict"), ("GET", "/health"), ("GET", "/about"), ("GET", "/metrics")])
def test_answers_are_as_described(description: Any, method: str, path: str, mode: schemathesis.GenerationMode) -> None:
    @given(case=description[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=EXCLUDED, timeout=30)

    try:
        check()
    except Unsatisfiable:
        assert mode is not schemathesis.GenerationMode.POSITIVE  # nothing can be wrong where there are no parameters


def test_a_prediction_is_as_described(server: Server, description: Any) -> None:
    operation = description["/predict"]["POST"]
    for query in ({}, {"preview": 32, "score": 0.0}, {"format": "both"}):
        answer = httpx.post(f"{server.url}/predict", params=query, files={"file": encoded(noise(70, 50))}, trust_env=False)
        assert answer.status_code == 200
        answer.request.read()
        operation.validate_response(answer)


def test_every_refusal_is_described(server: Server) -> None:
    described = server.client.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]
    assert set(described) == {"200", "400", "401", "403", "408", "413", "415", "422", "429", "503", "504"}
    assert "Retry-After" in described["429"]["headers"]
    for status in set(described) - {"200"}:
        assert list(described[status]["content"]) == ["application/problem+json"]


def test_a_fault_of_the_server_is_told_and_guarded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dict(server.client.get("/health").headers)

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.service, "compute", broken)
    answer = server.post(encoded(noise(20, 20)))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    for name in ("content-security-policy", "x-content-type-options", "x-frame-options", "cache-control"):
        assert answer.headers[name] == expected[name]


@pytest.mark.parametrize(("origin", "status"), [("http://evil.example", 403), ("null", 403), (None, 200), ("own", 200)])
def test_the_origin_of_a_request_counts_without_other_headers(server: Server, origin: str | None, status: int) -> None:
    headers = {"origin": server.url if origin == "own" else origin} if origin else {}
    assert server.post(encoded(noise(20, 20)), headers=headers).status_code == status


def test_a_misspelt_option_is_refused(server: Server) -> None:
    answer = server.post(encoded(noise(20, 20)), scor=0.3)
    assert answer.status_code == 422
    assert "no option 'scor'; expected score" in answer.json()["detail"]
    assert server.post(encoded(noise(20, 20)), score=0.3).content.endswith(b"}\n")


def test_token(detector: Detector) -> None:
    image = encoded(noise(32, 32))
    with Server(detector, token="s3cret") as running:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}, {"authorization": "Bearer"}):
            answer = running.post(image, headers=headers)
            assert "token" in said(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        said(running.client.get("/metrics"), 401)
        right = {"authorization": "Bearer s3cret"}
        assert running.post(image, headers=right).status_code == 200
        assert running.client.get("/metrics", headers=right).status_code == 200
        assert running.client.get("/about").json()["token"] is True
        for path in ("/", "/health", "/openapi.json"):
            assert running.client.get(path).status_code == 200


def test_other_sites_pages_are_refused(server: Server) -> None:
    image = encoded(noise(32, 32))
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert server.post(image, headers={"sec-fetch-site": site}).status_code == status


def test_no_memory_is_a_503(detector: Detector) -> None:
    failing = Detector(detector.model, detector.config, detector.class_names)

    def detect(*_: object) -> list[Detections]:
        raise torch.OutOfMemoryError("no room")

    failing.detect_crops = detect  # type: ignore[method-assign]
    with Server(failing) as running:
        answer = running.post(encoded(noise(32, 32)))
        assert "memory" in said(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        running.service.batcher.close()
        said(running.client.get("/health"), 503)


def test_about_tells_what_a_client_needs(server: Server) -> None:
    facts, config = server.client.get("/about").json(), server.service.detector.config
    assert facts["score_threshold"] == config.predict.score_threshold
    assert (facts["tile"], facts["image_size"], facts["device"]) == (64, 0, "cpu")
    assert (facts["timeout"], facts["concurrency"]) == (LIMITS.seconds, LIMITS.concurrency)
    assert all(re.fullmatch("#[0-9a-f]{6}", one["colour"]) for one in facts["classes"])
    assert len({one["colour"] for one in facts["classes"]}) == 2


def test_warming_up_uses_the_thread_that_computes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    plain = server.service.detector.detect_crops

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return plain(*arguments)

    monkeypatch.setattr(server.service.detector, "detect_crops", noted)
    server.service.warm_up()
    assert set(threads) == {"rotanext-batches"}
