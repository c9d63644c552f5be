"""Ctrl-C and SIGTERM as requests instead of exceptions."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SAME_KEY_PRESS = 1.0  # seconds: a terminal and a launcher may both hand on one Ctrl-C


@contextmanager
def asked_to_stop(ask: Callable[[], bool]) -> Iterator[None]:
    """Within it, `ask` is called on Ctrl-C and SIGTERM, and says whether it was before; a later Ctrl-C then ends the program."""
    first = 0.0

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        now = time.monotonic()
        if ask() and number == signal.SIGINT and now - first > _SAME_KEY_PRESS:
            raise KeyboardInterrupt
        first = first or now

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
