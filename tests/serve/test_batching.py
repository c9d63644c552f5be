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
