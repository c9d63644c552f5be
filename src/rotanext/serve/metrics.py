"""Figures for Prometheus, of one server."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from rotanext import __version__

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TILES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What happened since the start; the labels of every figure are from short, fixed lists."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.registry = registry = CollectorRegistry()
        Info("rotanext", "The version of rotanext.", registry=registry).info({"version": __version__})
        self.requests = Counter("rotanext_requests", "Requests answered.", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "rotanext_request_seconds", "Seconds to the end of an answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self.in_flight = Gauge("rotanext_predictions_in_flight", "Predictions being served.", registry=registry)
        self.tiles_waiting = Gauge("rotanext_tiles_waiting", "Tiles that wait to be computed.", registry=registry)
        self.batch_tiles = Histogram("rotanext_batch_tiles", "Tiles of a batch.", buckets=_TILES, registry=registry)
        self.batch_seconds = Histogram(
            "rotanext_batch_seconds", "Seconds a batch was computed.", buckets=_SECONDS, registry=registry
        )
        self.uploaded = Counter("rotanext_uploaded_bytes", "Bytes of images received.", registry=registry)
        self.pixels = Counter("rotanext_pixels", "Pixels of images answered.", registry=registry)
        self.detections = Counter("rotanext_detections", "Detections answered.", ["class"], registry=registry)
        for name in class_names:
            self.detections.labels(name)

    def batch(self, tiles: int, seconds: float) -> None:
        """Note one computed batch."""
        self.batch_tiles.observe(tiles)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self.registry)
