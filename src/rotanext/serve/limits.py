"""What the service accepts, and how it says no."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

PROBLEM = "application/problem+json"  # RFC 9457
BYTES_A_PIXEL = 16  # that a raster may hold in all its bands: four of float32, eight of 16 bit


@dataclass(frozen=True)
class Limits:
    """What one request may take: bytes uploaded, pixels decoded, seconds until the answer; and how many requests there may be."""

    upload: int
    pixels: int
    seconds: float
    concurrency: int


class Refused(Exception):
    """An answer other than success: its HTTP status, what to tell the sender, and headers besides."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def problem(status: int, detail: str) -> dict[str, object]:
    """The JSON of an answer that says no."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def check_pixels(width: int, height: int, limits: Limits, bytes_a_pixel: int = 1) -> None:
    """Refuse, by its header, an image that would take too much memory once decoded: 413. Sizes that make no sense: 422."""
    if width < 1 or height < 1:
        raise Refused(422, f"the image is {width} x {height} pixels; expected at least one")
    if width * height > limits.pixels:
        found = f"the image is {width} x {height} = {width * height:,} pixels"
        raise Refused(413, f"{found}; this server takes up to {limits.pixels:,}. Cut it into parts.")
    if width * height * bytes_a_pixel > limits.pixels * BYTES_A_PIXEL:
        found = f"the image takes {width * height * bytes_a_pixel / 1e6:.0f} million bytes once decoded"
        raise Refused(413, f"{found}; this server takes up to {limits.pixels * BYTES_A_PIXEL / 1e6:.0f}. Keep fewer bands.")


def too_large(limits: Limits) -> Refused:
    """The answer to an upload of too many bytes: 413."""
    return Refused(413, f"the upload is larger than the {limits.upload / 1e6:g} MB that this server takes. Cut or compress it.")


class Gate:
    """Lets in as many requests as may be served at once; the others are told when to come back (429)."""

    def __init__(self, places: int) -> None:
        self.places, self.inside = places, 0
        self._lock = threading.Lock()
        self._mean = 1.0  # seconds a request takes, of late

    def enter(self) -> float:
        """Take a place; returns the time, which `leave` wants back. Raises `Refused` where none is free."""
        with self._lock:
            if self.inside >= self.places:
                wait = {"Retry-After": str(self.wait)}
                raise Refused(429, f"{self.inside} requests are being served, as many as this server takes at once. Retry.", wait)
            self.inside += 1
        return time.monotonic()

    def leave(self, entered: float) -> None:
        """Give the place back."""
        with self._lock:
            self.inside -= 1
            self._mean += 0.2 * (time.monotonic() - entered - self._mean)

    @property
    def wait(self) -> int:
        """Whole seconds after which a place should be free."""
        return max(1, min(60, round(self._mean)))
