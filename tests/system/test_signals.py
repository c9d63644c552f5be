"""Ctrl-C and SIGTERM ask first; a second Ctrl-C ends the program."""

import ctypes
import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from rotanext.system import signals
from rotanext.system.signals import asked_to_stop, keeping_signal_stack, signal_stack


class Asked:
    """Counts how often it is asked; says whether it was before."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bool:
        self.times += 1
        return self.times > 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_one_asks(number: signal.Signals) -> None:
    before, ask = signal.getsignal(number), Asked()
    with asked_to_stop(ask):
        os.kill(os.getpid(), number)
        assert ask.times == 1
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_the_program(clock: list[float]) -> None:
    before = signal.getsignal(signal.SIGINT)
    ask = Asked()
    with asked_to_stop(ask):
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += 2.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert ask.times == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("second", "later"),
    [(signal.SIGINT, 0.2), (signal.SIGTERM, 60.0)],
    ids=["the same key press, handed on by a launcher", "a manager that asks again"],
)
def test_what_is_no_second_ctrl_c(second: signal.Signals, later: float, clock: list[float]) -> None:
    ask = Asked()
    with asked_to_stop(ask):
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += later
        os.kill(os.getpid(), second)
    assert ask.times == 2


def test_other_threads_leave_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with asked_to_stop(Asked()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lay the structure out in another way")
def test_a_signal_stack_that_a_library_replaced_is_put_back() -> None:
    libc, memory = ctypes.CDLL(None), ctypes.create_string_buffer(1 << 16)
    before = signal_stack()
    with keeping_signal_stack():
        libc.sigaltstack(ctypes.byref(signals._SignalStack(ctypes.addressof(memory), 0, len(memory))), None)
        assert signal_stack() == (ctypes.addressof(memory), 0, len(memory))
    assert signal_stack() == before
