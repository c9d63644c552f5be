"""What the loader gives a training, and what is said of processes that loaded and are no more."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader

from rotanext.data.dataset import Sample
from rotanext.errors import UserError
from rotanext.training.feeding import batches_of, load_window, vanished


class _CutOff:
    """Batches from a process that is killed while it hands one over."""

    def __init__(self, error: Exception) -> None:
        self.error, self._workers = error, [multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))]
        self._workers[0].start()

    def __iter__(self) -> "_CutOff":
        return self

    def __next__(self) -> list:
        worker = self._workers[0]
        threading.Timer(0.3, worker.kill).start()  # the system tells of its end after its connections are closed
        raise self.error


@pytest.mark.parametrize("error", [ConnectionResetError("Connection reset by peer"), EOFError()], ids=["reset", "end"])
def test_a_loading_process_killed_while_it_hands_over(error: Exception) -> None:
    found = load_window(_CutOff(error), 1, []).failure
    assert found
    assert found.startswith("a loading process was killed by SIGKILL")


# Windows of batches

SAMPLE = Sample(torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
DAMAGED = UserError("p2.png: found a file that does not decode")


@pytest.mark.parametrize(
    ("loaded", "count", "sizes", "unreadable"),
    [
        ([[SAMPLE, SAMPLE]], 1, [2], []),
        ([[SAMPLE], [SAMPLE, SAMPLE]], 2, [1, 2], []),
        ([[SAMPLE, DAMAGED]], 1, [1], [str(DAMAGED)]),
        ([[DAMAGED, DAMAGED]], 1, [0], [str(DAMAGED)] * 2),  # a batch of which nothing is left stays, empty
        ([[DAMAGED], [SAMPLE]], 2, [0, 1], [str(DAMAGED)]),
        ([], 0, [], []),
    ],
    ids=["one", "two", "one damaged", "all damaged", "damaged, then whole", "none"],
)
def test_a_window_of_batches(
    loaded: list[list[Sample | UserError]], count: int, sizes: list[int], unreadable: list[str], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    found = load_window(iter(loaded), count, [str(tmp_path)])
    assert [len(batch) for batch in found.batches] == sizes
    assert (found.unreadable, found.failure) == (unreadable, None)


def test_no_more_is_taken_than_asked_for() -> None:
    batches = iter([[SAMPLE]] * 5)
    load_window(batches, 3, [])
    assert len(list(batches)) == 2


def test_images_that_vanished_with_their_folder_are_no_damaged_images(tmp_path: Path) -> None:
    """The window ends there, filled up with empty batches; a folder without unreadable images is not looked at."""
    here, gone = tmp_path / "here", tmp_path / "gone"
    (here / "images").mkdir(parents=True)
    found = load_window(iter([[SAMPLE], [DAMAGED], [SAMPLE]]), 3, [str(here), str(gone)])
    assert [len(batch) for batch in found.batches] == [1, 0, 0]
    assert found.failure
    assert found.failure.startswith(f"{gone / 'images'}: found that the folder is gone")
    assert load_window(iter([[SAMPLE]]), 1, [str(gone)]).failure is None


@pytest.mark.parametrize("kind", ["missing", "file", "here"])
def test_vanished(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        (tmp_path / "images").write_text("")
    elif kind == "here":
        (tmp_path / "images").mkdir()
    assert (vanished([str(tmp_path)]) is None) == (kind == "here")
    assert vanished([]) is None


# Why loading failed


class _Worker(NamedTuple):
    exitcode: int | None


class _Failing:
    """Batches that end in an error, by processes that ended with these codes."""

    def __init__(self, error: Exception, codes: Sequence[int | None]) -> None:
        self.error, self._workers = error, [_Worker(code) for code in codes]

    def __iter__(self) -> "_Failing":
        return self

    def __next__(self) -> list:
        raise self.error


KILLED = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


@pytest.mark.parametrize(
    ("error", "codes", "found", "advice"),
    [
        (KILLED, [-signal.SIGKILL, None], "was killed by SIGKILL, as the system does when memory runs out.", "fewer data.workers"),
        (KILLED, [-signal.SIGTERM, 0, -signal.SIGTERM], "was killed by SIGTERM.", "fewer data.workers"),
        (KILLED, [-signal.SIGTERM, -signal.SIGKILL], "was killed by SIGKILL and SIGTERM, as the system does", "data.cache=false"),
        (KILLED, [-signal.SIGBUS], "killed by SIGBUS: shared memory (/dev/shm) is full", "docker --shm-size"),
        (KILLED, [None, 0, 1], "was killed by an unknown hand.", "fewer data.workers"),
        (MemoryError(), [], "memory ran out while images were loaded", "data.cache=false, a smaller data.image_size or batch"),
        (
            RuntimeError("Too many open files. Communication with the workers is no longer possible"),
            [0],
            "too many open files",
            "ulimit",
        ),
    ],
    ids=["memory", "asked", "both", "shared memory", "unknown", "own memory", "files"],
)
def test_why_loading_failed(error: Exception, codes: list[int | None], found: str, advice: str) -> None:
    window = load_window(_Failing(error, codes), 2, [])
    assert (window.batches, window.unreadable) == ([[], []], [])
    assert window.failure
    assert found in window.failure
    assert advice in window.failure
    assert window.failure.endswith(".")


def test_other_errors_are_not_the_loaders() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"):
        load_window(_Failing(RuntimeError("shapes do not match"), []), 1, [])


def test_a_loader_leaves_the_signals_of_children_alone() -> None:
    """torch's handler would raise its error anywhere; the one that was there before stays."""

    def own(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGCHLD, own)
    try:
        loader = DataLoader(range(4), batch_size=2, num_workers=1, multiprocessing_context="fork")  # type: ignore[arg-type, var-annotated]
        batches = batches_of(loader)
        assert signal.getsignal(signal.SIGCHLD) is own
        assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3]]  # type: ignore[attr-defined]
    finally:
        signal.signal(signal.SIGCHLD, before)
