"""Ctrl-C and SIGTERM as requests instead of exceptions."""

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
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


class _SignalStack(ctypes.Structure):
    """Linux's `stack_t`: the memory on which this thread's signal handlers run, where it was set aside."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int, int]:
    """Address, flags and size of this thread's alternate signal stack; on other systems than Linux (None, 0, 0)."""
    if _LIBC is None:
        return None, 0, 0
    found = _SignalStack()
    _LIBC.sigaltstack(None, ctypes.byref(found))
    return found.address, found.flags, found.size


@contextmanager
def keeping_signal_stack() -> Iterator[None]:
    """Puts this thread's alternate signal stack back, for libraries that replace it.

    OpenVINO (2026) does when it first computes, and frees its own later: from then on any signal, Ctrl-C included, would end the
    program by a segmentation fault without a word, as Python's handlers run on that stack.
    """
    before = signal_stack()
    try:
        yield
    finally:
        if _LIBC is not None and signal_stack() != before:
            _LIBC.sigaltstack(ctypes.byref(_SignalStack(*before)), None)
