"""Tiles of concurrent requests, computed in common batches by one thread."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from rotanext.detections import Detections
from rotanext.inference.detector import Detector
from rotanext.inference.tiles import Crop
from rotanext.serve.limits import Refused

Listener = Callable[[int, float], None]  # hears of each batch how many tiles it had, and the seconds it took


class _Tile(NamedTuple):
    crop: Crop
    threshold: float
    abandoned: threading.Event
    result: "Future[Detections]"

    @property
    def key(self) -> tuple[tuple[int, ...], float]:
        """Tiles that agree in this can be computed at once."""
        return self.crop.shape, self.threshold


class Abandoned(Exception):
    """Nobody waits for this request any more."""


class Batcher:
    """The one thread that computes. A batch is the tile that has waited longest, with others of its size and threshold.

    Nothing waits for others: what comes while one batch is computed goes into the next. The network always gets `size` images,
    empty ones where there are fewer tiles, because its last digits depend on how many it gets: so a tile's result is the same
    whatever else is being served.
    """

    def __init__(self, detector: Detector, size: int, listener: Listener = lambda tiles, seconds: None) -> None:
        self.detector, self.size, self._listener = detector, size, listener
        self._waiting: deque[_Tile] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rotanext-batches", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether tiles are still computed."""
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        """How many tiles wait."""
        return len(self._waiting)

    def detect(self, crops: list[Crop], threshold: float, abandoned: threading.Event) -> list[Detections]:
        """See `Detector.detect_crops`; waits for its turn.

        Raises `Abandoned` once that event is set, `Refused` where the server stops, and whatever the detector raises.
        """
        tiles = [_Tile(crop, threshold, abandoned, Future()) for crop in crops]
        with self._changed:
            if self._closed:
                raise Refused(503, "the server is stopping", {"Retry-After": "5"})
            self._waiting.extend(tiles)
            self._changed.notify()
        return [tile.result.result() for tile in tiles]

    def close(self) -> None:
        """Stop after the current batch; whoever still waits is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            start = time.monotonic()
            try:
                found = self.detector.detect_crops([tile.crop for tile in batch], batch[0].threshold, self.size)
            except BaseException as error:  # the requests' own threads deal with it; this one has to live
                for tile in batch:
                    tile.result.set_exception(error)
                continue
            self._listener(len(batch), time.monotonic() - start)
            for tile, detections in zip(batch, found, strict=True):
                tile.result.set_result(detections)
        while self._waiting:
            self._waiting.popleft().result.set_exception(Refused(503, "the server is stopping", {"Retry-After": "5"}))

    def _next(self) -> list[_Tile]:
        """The next batch; empty once closed."""
        with self._changed:
            while not self._closed:
                wanted, others = list[_Tile](), deque[_Tile]()
                for tile in self._waiting:
                    if tile.abandoned.is_set():
                        tile.result.set_exception(Abandoned())
                    elif len(wanted) < self.size and (not wanted or tile.key == wanted[0].key):
                        wanted.append(tile)
                    else:
                        others.append(tile)
                self._waiting = others
                if wanted:
                    return wanted
                self._changed.wait()
        return []
