"""The service from end to end: images over the wire, many at once, and too many."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rotanext.boxes import CONVENTION
from rotanext.inference.detector import Detector
from serving import LIMITS, Server, encoded, geotiff, noise, said, waiting_detector


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


def test_an_overload_is_told_to_come_back_and_recovers(detector: Detector) -> None:
    slow, begun, go_on = waiting_detector(detector)
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
    slow, _, go_on = waiting_detector(detector)
    image = encoded(noise(32, 32))
    with Server(slow, replace(LIMITS, seconds=0.3, concurrency=1)) as running:
        assert "longer than 0.3 seconds" in said(running.post(image), 504)
        said(running.post(image), 429)  # the thread that computes for nobody still holds the place
        go_on.set()
        running.settled()
        running.service.limits = LIMITS
        assert running.post(image).status_code == 200


def test_who_leaves_is_not_computed_for(detector: Detector) -> None:
    slow, begun, go_on = waiting_detector(detector)
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
