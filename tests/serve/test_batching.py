"""Tiles of concurrent requests in common batches."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rotanext.detections import Detections
from rotanext.inference.detector import Detector
from rotanext.serve.batching import Abandoned, Batcher
from rotanext.serve.limits import Refused
from serving import noise


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


class FakeDetector:
    """Gives as many detections as the first pixel of a crop says, once it may go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def detect_crops(self, crops: list[np.ndarray], threshold: float, fill: int) -> list[Detections]:
        self.begun.set()
        assert self.go_on.wait(10)
        self.sizes.append(fill)
        counts = [int(crop[0, 0, 0]) for crop in crops]
        return [Detections(torch.zeros(n, 5), torch.zeros(n), torch.zeros(n, dtype=torch.long), ("a",)) for n in counts]


def crop(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def test_who_still_waits_when_the_server_stops_is_refused() -> None:
    fake = FakeDetector()
    batcher = Batcher(fake, 1)  # type: ignore[arg-type]
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(batcher.detect, [crop(1)], 0.1, threading.Event())
        assert fake.begun.wait(10)
        second = pool.submit(batcher.detect, [crop(2)], 0.1, threading.Event())
        while batcher.waiting < 1:
            time.sleep(0.001)
        closing = pool.submit(batcher.close)
        while batcher.alive:
            time.sleep(0.001)
        fake.go_on.set()
        assert len(first.result(10)[0]) == 1  # the batch that was begun is finished
        with pytest.raises(Refused, match="stopping") as refused:
            second.result(10)
        closing.result(10)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})


def test_tiles_come_back_in_their_order_and_batches_are_heard_of() -> None:
    fake, heard = FakeDetector(), list[int]()
    fake.go_on.set()
    batcher = Batcher(fake, 3, lambda tiles, seconds: heard.append(tiles if seconds >= 0 else -1))  # type: ignore[arg-type]
    found = batcher.detect([crop(n) for n in range(7)], 0.1, threading.Event())
    batcher.close()
    assert [len(one) for one in found] == list(range(7))
    assert heard == [3, 3, 1]
    assert fake.sizes == [3, 3, 3]  # the network always gets as many images
    assert batcher.waiting == 0


def test_no_tiles_are_no_wait() -> None:
    fake = FakeDetector()
    batcher = Batcher(fake, 1)  # type: ignore[arg-type]
    assert batcher.detect([], 0.1, threading.Event()) == []
    batcher.close()
    assert not fake.begun.is_set()
