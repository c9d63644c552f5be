"""The service: every answer and limit, common batches, and uploads that mean harm."""

import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from rotanext.boxes import CONVENTION
from rotanext.cli.main import app as commands
from rotanext.detections import Detections
from rotanext.images.reading import decode_image
from rotanext.inference.detector import Detector
from rotanext.serve.batching import Abandoned, Batcher
from rotanext.serve.limits import Gate, Refused
from rotanext.serve.uploads import Upload
from serving import LIMITS, Server, encoded, geotiff, noise, spread_detector


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return spread_detector(tiny_weights)


@pytest.fixture(scope="module")
def server(detector: Detector) -> Iterator[Server]:
    with Server(detector) as running:
        yield running


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def said(answer: httpx.Response, status: int) -> str:
    """What a refusal says, which must be a problem of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    return str(problem["detail"])


def test_a_image_gives_what_the_detector_gives(server: Server, detector: Detector) -> None:
    image = noise(150, 100)
    answer = server.post(encoded(image), score=0.2).json()
    expected = detector(image, score_threshold=0.2)
    assert len(expected) > 3
    assert answer["detections"] == json.loads(json.dumps(expected.to_records()))
    assert answer["image"] == {"width": 150, "height": 100, "kind": "PNG", "georeferenced": False, "notes": []}
    assert (answer["class_names"], answer["box_convention"]) == (["plane", "ship"], CONVENTION)
    assert (answer["geojson"], answer["preview"], answer["score_threshold"]) == (None, None, 0.2)


def test_a_body_may_be_the_image_itself(server: Server) -> None:
    data = encoded(noise(80, 60), ".jpg")
    raw = server.client.post("/predict", content=data, headers={"content-type": "image/jpeg"}).json()
    assert raw == server.post(data).json()
    assert raw["image"]["kind"] == "JPEG"
    assert raw["score_threshold"] == server.service.detector.config.predict.score_threshold


@pytest.mark.parametrize("batch", [1, 4])
def test_concurrent_requests_share_batches_and_change_nothing(detector: Detector, batch: int) -> None:
    images = [noise(200 + 20 * (i % 2), 150, i) for i in range(8)]
    with Server(detector, replace(LIMITS, concurrency=8), batch=batch) as running, ThreadPoolExecutor(8) as pool:
        alone = [running.post(encoded(image), score=0.2).json()["detections"] for image in images]
        sizes: list[int] = []
        listener = running.service.batcher._listener
        running.service.batcher._listener = lambda tiles, seconds: (sizes.append(tiles), listener(tiles, seconds))
        answers = list(pool.map(lambda image: running.post(encoded(image), score=0.2).json()["detections"], images))
    assert answers == alone
    assert max(sizes) == batch
    for image, answer in zip(images, answers, strict=True):
        expected = detector(image, score_threshold=0.2)
        if batch == 1:
            assert answer == json.loads(json.dumps(expected.to_records()))
        else:  # up to rounding, as with every change of the batch size
            scores = torch.tensor([one["score"] for one in answer])
            torch.testing.assert_close(scores, expected.scores, rtol=0, atol=1e-4)


def test_a_batch_is_of_several_requests(detector: Detector) -> None:
    """While the first batch is held up, tiles of others come together; another size or threshold goes separately."""
    computed: list[list[tuple[int, ...]]] = []
    hold, begun = threading.Event(), threading.Event()
    plain = Detector(detector.model, detector.config, detector.class_names)

    def slow(crops: list[np.ndarray], threshold: float, fill: int) -> list[Detections]:
        computed.append([crop.shape for crop in crops])
        begun.set()
        hold.wait(10)
        return Detector.detect_crops(plain, crops, threshold, fill)

    plain.detect_crops = slow  # type: ignore[method-assign, assignment]
    batcher = Batcher(plain, 3)
    crops = [(noise(64, 64, 1), 0.1), *((noise(64, 64, i), 0.2) for i in range(2, 6)), (noise(48, 48), 0.2)]
    with ThreadPoolExecutor(len(crops)) as pool:
        waiting = []
        for crop, threshold in crops:
            waiting.append(pool.submit(batcher.detect, [crop], threshold, threading.Event()))
            assert begun.wait(10)
            while batcher.waiting < len(waiting) - 1:
                time.sleep(0.001)
        hold.set()
        found = [future.result()[0] for future in waiting]
    assert computed == [[(64, 64, 3)], [(64, 64, 3)] * 3, [(64, 64, 3)], [(48, 48, 3)]]
    for (crop, threshold), one in zip(crops, found, strict=True):
        alone = detector.detect_crops([crop], threshold, 3)[0]
        assert torch.equal(one.boxes, alone.boxes)
        assert torch.equal(one.scores, alone.scores)
    batcher.close()
    with pytest.raises(Refused, match="stopping"):
        batcher.detect([crops[0][0]], 0.1, threading.Event())


def test_a_tile_does_not_feel_the_others_of_its_batch(detector: Detector) -> None:
    """Candidates of a whole batch in one array were rounded by where they lay in it: up to 6e-8, now and then."""
    crops = [noise(64, 64, seed) for seed in range(12)]
    for size in (3, 4):
        alone = [detector.detect_crops([crop], 0.2, size)[0] for crop in crops]
        for start in range(0, 12, size):
            together = detector.detect_crops(crops[start : start + size], 0.2, size)
            for one, other in zip(together, alone[start : start + size], strict=True):
                assert torch.equal(one.scores, other.scores)
                assert torch.equal(one.boxes, other.boxes)


def test_abandoned_tiles_are_not_computed_and_a_failure_ends_nothing(detector: Detector) -> None:
    failing = Detector(detector.model, detector.config, detector.class_names)
    fails = [True]

    def detect(crops: list[np.ndarray], threshold: float, fill: int) -> list[Detections]:
        if fails.pop():
            raise MemoryError
        return Detector.detect_crops(failing, crops, threshold)

    failing.detect_crops = detect  # type: ignore[method-assign, assignment]
    batcher = Batcher(failing, 2)
    with pytest.raises(MemoryError):
        batcher.detect([noise(64, 64)], 0.1, threading.Event())
    gone = threading.Event()
    gone.set()
    with pytest.raises(Abandoned):
        batcher.detect([noise(64, 64)], 0.1, gone)
    fails.append(False)
    assert len(batcher.detect([noise(64, 64)], 0.1, threading.Event())) == 1
    assert batcher.alive
    batcher.close()
    assert not batcher.alive


def test_geotiffs_give_geojson(server: Server, tmp_path: Path) -> None:
    data = geotiff(noise(130, 70), tmp_path / "a.tif")
    answer = server.post(data, score=0.3, format="both").json()
    assert answer["image"]["georeferenced"]
    assert len(answer["geojson"]["features"]) == len(answer["detections"]) > 0
    alone = server.post(data, score=0.3, format="geojson")
    assert alone.headers["content-type"] == "application/geo+json"
    assert alone.json() == answer["geojson"]
    longitude, latitude = answer["geojson"]["features"][0]["geometry"]["coordinates"][0][0]
    assert (round(longitude), round(latitude)) == (14, 45)
    assert "no georeference" in said(server.post(encoded(noise(64, 64)), format="geojson"), 422)
    preview = server.post(data, preview=65).json()["preview"]
    assert (preview["width"], preview["height"]) == (65, 35)


def test_a_coordinate_system_that_names_files_is_not_used(server: Server, tmp_path: Path) -> None:
    crs = "+proj=longlat +ellps=bessel +nadgrids=/etc/passwd +no_defs"
    data = geotiff(noise(64, 64), tmp_path / "a.tif", crs)
    answer = server.post(data, format="both")
    assert answer.status_code == 200
    with Upload(data, LIMITS) as upload:
        assert upload.georeference is None or "passwd" not in upload.georeference.crs.to_wkt()
    mercator = geotiff(noise(64, 64), tmp_path / "b.tif", "EPSG:3857")
    assert server.post(mercator, format="both").json()["image"]["georeferenced"]


HARMFUL = {
    "empty": (b"", 422),
    "text": (b"hello", 415),
    "vrt": (b'<VRTDataset rasterXSize="9" rasterYSize="9"><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>', 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 415),
    "path": (b"/vsicurl/http://127.0.0.1:1/a.tif", 415),
    "gif": (b"GIF89a" + bytes(100), 415),
    "bmp": (b"BM" + bytes(100), 415),
    "zip": (b"PK\x03\x04" + bytes(100), 415),
    "png of nothing": (png_claiming(0, 5), 422),
    "png bomb": (png_claiming(60_000, 60_000), 413),
    "png without its pixels": (png_claiming(500, 500), 422),
    "png signature alone": (b"\x89PNG\r\n\x1a\n", 422),
    "png cut": (encoded(noise(64, 64))[:2000], 422),
    "jpeg signature alone": (b"\xff\xd8\xff", 422),
    "jpeg cut": (encoded(noise(64, 64), ".jpg")[:1500], 422),
    "jpeg of endless segments": (b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000, 422),
    "jpeg bomb": (b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(40) + b"\xff\xd9", 413),
    "tiff signature alone": (b"II*\0", 422),
    "tiff of nothing": (b"II*\0" + bytes(100), 422),
    "tiff and vrt": (b"II*\0\x08\0\0\0<VRTDataset rasterXSize='9' rasterYSize='9'></VRTDataset>", 422),
    "jpeg 2000 signature alone": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), 422),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_uploads_are_refused(server: Server, name: str) -> None:
    data, status = HARMFUL[name]
    start = time.monotonic()
    said(server.post(data), status)
    raw = server.client.post("/predict", content=data, headers={"content-type": "application/octet-stream"})
    said(raw, status)
    assert time.monotonic() - start < 5


def test_tiffs_that_would_take_much_memory_are_refused(server: Server, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    large = {"driver": "GTiff", "count": 1, "dtype": "uint8", "compress": "deflate", "sparse_ok": True}
    for name, shape, options in (
        ("wide", (50_000, 50_000), {}),
        ("deep", (1500, 1500), {"count": 40, "dtype": "float64"}),
        ("blocks", (100, 100), {"tiled": True, "blockxsize": 32_768, "blockysize": 32_768}),
    ):
        with rasterio.open(tmp_path / f"{name}.tif", "w", width=shape[1], height=shape[0], **large | options):
            pass
        data = (tmp_path / f"{name}.tif").read_bytes()
        assert len(data) < LIMITS.upload
        said(server.post(data), 413)


def test_every_cut_of_every_kind_is_refused_or_answered(server: Server, tmp_path: Path) -> None:
    kinds = [encoded(noise(40, 40)), encoded(noise(40, 40), ".jpg"), geotiff(noise(40, 40), tmp_path / "a.tif", compress="deflate")]
    for data in kinds:
        for share in (0.02, 0.1, 0.3, 0.6, 0.9, 0.99):
            assert server.post(data[: int(len(data) * share)]).status_code in (200, 415, 422)
    rng = np.random.default_rng(5)
    for data in kinds * 10:
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 6):
            damaged[at] = rng.integers(0, 256)
        assert server.post(bytes(damaged)).status_code in (200, 413, 415, 422)


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


def _held(detector: Detector) -> tuple[Detector, threading.Event, threading.Event]:
    """A detector that waits for the second event, and sets the first when it does."""
    slow = Detector(detector.model, detector.config, detector.class_names)
    begun, go_on = threading.Event(), threading.Event()

    def detect(crops: list[np.ndarray], threshold: float, fill: int = 0) -> list[Detections]:
        begun.set()
        go_on.wait(20)
        return Detector.detect_crops(slow, crops, threshold)

    slow.detect_crops = detect  # type: ignore[method-assign]
    return slow, begun, go_on


def test_an_overload_is_told_to_come_back_and_recovers(detector: Detector) -> None:
    slow, begun, go_on = _held(detector)
    image = encoded(noise(32, 32))
    with Server(slow, replace(LIMITS, concurrency=2)) as running, ThreadPoolExecutor(4) as pool:
        held = [pool.submit(running.post, image) for _ in range(2)]
        assert begun.wait(10)
        while running.service.gate.inside < 2:
            time.sleep(0.01)
        refused = running.post(image)
        assert "Retry" in said(refused, 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert running.client.get("/health").status_code == 200
        go_on.set()
        assert [future.result().status_code for future in held] == [200, 200]
        running.settled()
        assert running.post(image).status_code == 200
        text = running.client.get("/metrics").text
        assert 'rotanext_requests_total{path="/predict",status="429"} 1.0' in text


def test_computing_too_long_is_answered_and_frees_its_place(detector: Detector) -> None:
    slow, _, go_on = _held(detector)
    image = encoded(noise(32, 32))
    with Server(slow, replace(LIMITS, seconds=0.3, concurrency=1)) as running:
        assert "longer than 0.3 seconds" in said(running.post(image), 504)
        said(running.post(image), 429)  # the thread that computes for nobody still holds the place
        go_on.set()
        running.settled()
        running.service.limits = LIMITS
        assert running.post(image).status_code == 200


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


def test_who_leaves_is_not_computed_for(detector: Detector) -> None:
    slow, begun, go_on = _held(detector)
    image = encoded(noise(300, 300))  # many batches
    with Server(slow, LIMITS, batch=1) as running:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", running.port)) as leaving:
            leaving.sendall(head.encode() + image)
            assert begun.wait(10)
        time.sleep(0.2)
        go_on.set()
        running.settled()
        text = running.client.get("/metrics").text
        assert "rotanext_batch_tiles_sum 1.0" in text
        assert 'path="/predict",status="400"' in text


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


def test_headers_keep_browsers_safe(server: Server) -> None:
    for path in ("/", "/page/main.js", "/about", "/nothing"):
        headers = server.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert server.client.get("/page/main.js").headers["content-type"].startswith("text/javascript")
    assert server.client.head("/").status_code == 200


def test_the_page_has_nothing_of_other_hosts() -> None:
    from rotanext.serve.site import page_files

    files = page_files()
    assert {"index.html", "style.css", "main.js", "icon.svg"} <= set(files)
    for name, (data, _) in files.items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, name
        assert "https://" not in text, name
        assert "style=" not in text or name.endswith(".js"), name


def test_about_and_metrics(server: Server) -> None:
    facts = server.client.get("/about").json()
    assert [one["name"] for one in facts["classes"]] == ["plane", "ship"]
    assert (facts["max_upload"], facts["max_pixels"], facts["token"]) == (2_000_000, 4_000_000, False)
    server.post(encoded(noise(150, 100)))
    text = server.client.get("/metrics").text
    for line in ("rotanext_batch_tiles_count", 'rotanext_detections_total{class="plane"}', "rotanext_pixels_total"):
        assert line in text
    assert "rotanext_predictions_in_flight 0.0" in text
    assert server.client.get("/health").json()["status"] == "ok"


def test_gate() -> None:
    gate = Gate(1)
    entered = gate.enter()
    with pytest.raises(Refused) as refused:
        gate.enter()
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    gate.leave(entered)
    gate.leave(gate.enter() - 1000)
    assert 2 <= gate.wait <= 60


def test_decode_image_opens_no_file(tmp_path: Path) -> None:
    image = noise(20, 10)
    assert (decode_image(tmp_path / "not there", encoded(image)) == image).all()


def test_command_line(cli: Callable[..., Any], tiny_weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = cli("serve", "--weights", tiny_weights, "--port", taken.getsockname()[1])
    assert outcome.code == 2
    assert "Choose another --port" in outcome.err
    assert "empty" in cli("serve", "--weights", tiny_weights, "--token", "", "--port", 0).err
    assert cli("serve", "--weights", tiny_weights, "--port", 0, "--token", "a b").code == 2
    serve = next(command for command in commands.registered_commands if command.callback and command.callback.__name__ == "serve")
    assert serve.callback.__defaults__[0] == "127.0.0.1"  # type: ignore[union-attr, index]
