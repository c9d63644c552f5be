"""Reading the body of a request: its forms, its limits, and senders who stop."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from rotanext.inference.detector import Detector
from rotanext.serve.limits import Limits, Refused
from rotanext.serve.receive import receive_upload
from serving import LIMITS, Server, encoded, noise, said


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a\0b.png", "C:\\x.png", "x" * 500, "/vsicurl/http://x/y.tif", "é\n.vrt"]
)
def test_the_name_of_a_file_means_nothing(server: Server, name: str) -> None:
    assert server.post(encoded(noise(32, 32)), name=name).status_code == 200
    said(server.post(encoded(noise(32, 32)), name=name * 2000), 400)


def test_limits_of_size(server: Server) -> None:
    assert "2 MB" in said(server.post(bytes(3_000_000)), 413)
    headers = {"content-type": "image/png"}

    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield bytes(100_000)

    assert "2 MB" in said(server.client.post("/predict", content=pieces(), headers=headers), 413)
    chunked = {"content-type": "multipart/form-data; boundary=x"}
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    def form() -> Iterator[bytes]:
        yield start
        yield from pieces()

    said(server.client.post("/predict", content=form(), headers=chunked), 413)
    found = said(server.post(encoded(np.zeros((2100, 2100, 3), np.uint8))), 413)
    assert "4,410,000 pixels; this server takes up to 4,000,000" in found
    assert server.post(encoded(np.zeros((64, 64, 3), np.uint8))).status_code == 200
    server.settled()


def test_bodies_of_other_kinds(server: Server) -> None:
    post = server.client.post
    assert "expected multipart" in said(post("/predict", json={"file": "/etc/passwd"}), 415)
    assert "without a type" in said(post("/predict", content=b"abc"), 415)
    said(post("/predict", content=b"abc", headers={"content-type": "multipart/form-data"}), 400)
    said(post("/predict", content=b"abc", headers={"content-type": "multipart/form-data; boundary=x"}), 400)
    assert "no image" in said(post("/predict", files={"other": b"x"}), 422)
    assert "no image" in said(post("/predict", files={"x": (None, "/etc/passwd")}), 422)
    image = encoded(noise(32, 32))
    said(post("/predict", files=[("file", ("a", image)), ("file", ("b", image))]), 400)
    for query in ({"score": 2}, {"score": "nan"}, {"format": "xml"}, {"preview": 99999}, {"preview": "x"}):
        said(server.post(image, **query), 422)
    said(server.client.get("/predict"), 405)
    said(server.client.get("/nothing"), 404)
    for path in ("/page/..%2f..%2fapp.py", "/page/../../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/app.py"):
        assert server.client.get(path).status_code == 404
    server.settled()


def test_slow_uploads_and_senders_who_leave(detector: Detector) -> None:
    with Server(detector, replace(LIMITS, seconds=0.4, concurrency=1)) as running:
        head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", running.port)) as slow:
            slow.sendall(head.encode() + b"\x89PNG")
            assert b"408 Request Timeout" in slow.recv(4000)
        with socket.create_connection(("127.0.0.1", running.port)) as slow:
            slow.sendall(head.encode() + b"\x89PNG")
        running.settled()
        running.service.limits = LIMITS
        assert running.post(encoded(noise(32, 32))).status_code == 200


def test_senders_who_stop_give_their_place_to_others(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotanext.serve.receive.STALLED", 0.3)
    with Server(detector, replace(LIMITS, seconds=60, concurrency=1)) as running:
        for body in (b"", b"\x89PNG"):
            with socket.create_connection(("127.0.0.1", running.port), timeout=20) as stalled:
                head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
                stalled.sendall(head.encode() + body)
                assert b"408 Request Timeout" in stalled.recv(4000)
            running.settled()
        monkeypatch.undo()
        assert running.post(encoded(noise(32, 32))).status_code == 200


def received(chunks: list[bytes], limits: Limits = LIMITS, left: bool = False, **headers: str) -> bytes:
    """What a request of these pieces gives; `left`: its sender then closes the connection."""
    messages = [
        {"type": "http.request", "body": chunk, "more_body": left or at < len(chunks)} for at, chunk in enumerate(chunks, 1)
    ]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        if left:
            return {"type": "http.disconnect"}
        await asyncio.sleep(60)
        raise AssertionError("more was asked for than was sent")

    names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return asyncio.run(receive_upload(Request({"type": "http", "method": "POST", "headers": names}, receive), limits))


FORM = "multipart/form-data; boundary=x"


def form(data: bytes, name: str = "file", filename: str | None = "a") -> bytes:
    ending = "" if filename is None else f'; filename="{filename}"'
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{ending}\r\n\r\n'.encode() + data + b"\r\n--x--\r\n"


@pytest.mark.parametrize("kind", ["image/png", "image/x-anything; charset=x", "IMAGE/TIFF", "application/octet-stream"])
def test_a_whole_body_is_joined(kind: str) -> None:
    assert received([b"ab", b"", b"cd"], content_type=kind) == b"abcd"


@pytest.mark.parametrize("size", [0, 5, 1_500_000])  # the last one in a temporary file
def test_the_file_of_a_form(size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    whole = form(data)
    assert received([whole[:40], whole[40:]], content_type=FORM) == data


REFUSED = (  # pieces, headers, status, part of the detail
    ([b"abc"], {}, 415, "found a body without a type"),
    ([b"abc"], {"content_type": "text/html"}, 415, "found a body of type 'text/html'"),
    ([b"abc"], {"content_type": "image/png", "content_length": "-1"}, 400, "Content-Length is not a number"),
    ([b"abc"], {"content_type": "image/png", "content_length": "11"}, 413, "larger than"),
    ([b"abcdef", b"ghijk"], {"content_type": "image/png"}, 413, "larger than"),
    ([form(b"x" * 11)], {"content_type": FORM}, 413, "larger than"),
    ([form(b"x" * 70_000)], {"content_type": FORM}, 413, "larger than"),
    ([form(b"x", filename=None)], {"content_type": FORM}, 422, "the form has no image"),
    ([form(b"x", name="image")], {"content_type": FORM}, 422, "the form has no image"),
    ([b"no form"], {"content_type": FORM}, 400, "the form cannot be read"),
    ([b""], {"content_type": "multipart/form-data"}, 400, "the form cannot be read"),
)


@pytest.mark.parametrize(("chunks", "headers", "status", "detail"), REFUSED)
def test_refusals(chunks: list[bytes], headers: dict[str, str], status: int, detail: str) -> None:
    with pytest.raises(Refused) as refused:
        received(chunks, replace(LIMITS, upload=10), **headers)
    assert (refused.value.status, detail in refused.value.detail) == (status, True)


@pytest.mark.parametrize("kind", ["image/png", FORM])
def test_a_sender_who_leaves(kind: str) -> None:
    with pytest.raises(Refused, match="connection closed before the upload was complete") as refused:
        received([form(b"abc")[:30]], left=True, content_type=kind)
    assert refused.value.status == 400


@pytest.mark.parametrize("kind", ["image/png", FORM])
@pytest.mark.parametrize(
    ("seconds", "stalled", "detail"), [(0.1, 10, "longer than 0.1 seconds"), (20, 0.1, "nothing of the upload came")]
)
def test_a_sender_who_waits(kind: str, seconds: float, stalled: float, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotanext.serve.receive.STALLED", stalled)
    with pytest.raises(Refused, match=detail) as refused:
        received([], replace(LIMITS, seconds=seconds), content_type=kind)
    assert refused.value.status == 408
