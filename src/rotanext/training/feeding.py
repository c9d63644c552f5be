"""What the loader gives a training, step by step, and what can go wrong with it."""

import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from rotanext.data.dataset import Sample
from rotanext.errors import UserError, explain

Batches = Iterator[list[Sample | UserError]]
_WORKERS_ARE_LOST = ("DataLoader worker (pid", "Too many open files. Communication with the workers")


class StepData(NamedTuple):
    """The data of one optimiser step, as far as one process has them."""

    batches: list[list[Sample]]  # as many as the step has; some may be empty
    unreadable: list[str]  # why images are missing in them
    failure: str | None  # why no more can be loaded


def batches_of(loader: "DataLoader[Any]") -> Batches:
    """The loader's batches. A killed worker shows in `next`, within five seconds, as a RuntimeError.

    torch would raise that error wherever the program just is, the middle of an optimiser step included, from a handler of SIGCHLD,
    which is put aside here.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    batches: Batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    return batches


def load_window(batches: Batches, count: int, roots: list[str]) -> StepData:
    """The next `count` batches, without the images that turn out to be damaged; `roots` are the folders they come from."""
    window: list[list[Sample]] = []
    unreadable: list[str] = []
    failure = None
    while len(window) < count and failure is None:
        try:
            loaded = next(batches)
        except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:  # the latter two: it died while handing over
            if isinstance(error, RuntimeError) and not str(error).startswith(_WORKERS_ARE_LOST):
                raise
            failure = _why_lost(error, batches)
            break
        window.append([item for item in loaded if isinstance(item, Sample)])
        unreadable += [str(item) for item in loaded if isinstance(item, UserError)]
        if unreadable:
            failure = vanished(roots)
    return StepData(window + [[]] * (count - len(window)), unreadable, failure)


def vanished(roots: list[str]) -> str | None:
    """A message where a folder of images is no longer there: then it is not the images that are damaged."""
    for root in roots:
        images = Path(root) / "images"
        if not os.path.isdir(images):  # noqa: PTH112 (Path's raises for a dead network drive)
            return explain(images, "that the folder is gone", "the training's images", "Bring it back (a disk or network drive?).")
    return None


def _why_lost(error: Exception, batches: Batches) -> str:
    """What happened to the loading processes, and what helps."""
    workers = getattr(batches, "_workers", [])
    if isinstance(error, ConnectionError | EOFError):
        ending = wait([worker.sentinel for worker in workers], timeout=5)
        for worker in workers:  # files close a moment before the system tells how it ended
            worker.join(5 if worker.sentinel in ending else 0)
    codes = [worker.exitcode for worker in workers]
    signals = sorted({signal.Signals(-code).name for code in codes if code and code < 0})
    if isinstance(error, MemoryError):
        found, advice = "memory ran out while images were loaded", "Use data.cache=false, a smaller data.image_size or batch"
    elif str(error).startswith("Too many"):
        found, advice = "too many open files", "Raise the limit (ulimit -n), or use fewer data.workers"
    elif "SIGBUS" in signals:
        found = "a loading process was killed by SIGBUS: shared memory (/dev/shm) is full"
        advice = "Give the container more (docker --shm-size), or use fewer data.workers"
    else:
        found = f"a loading process was killed by {' and '.join(signals) or 'an unknown hand'}"
        found += ", as the system does when memory runs out" * ("SIGKILL" in signals)
        advice = "Use fewer data.workers, or data.cache=false: each of them has a cache of its own"
    return f"{found}. {advice}."
