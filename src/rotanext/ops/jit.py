"""What all numba kernels share: the compiler with its cache on disk, what is said of compiling, and threads to compute in."""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, wraps
from itertools import pairwise
from typing import Any

import numba
import torch

CACHE = "ROTANEXT_NUMBA_CACHE"  # environment variable; 0: compile anew in each process
_WORTH_A_NOTE = 2.0  # seconds
_WORTH_A_THREAD = 1 << 14  # pairs
_log = logging.getLogger("rotanext")
compiled: list[str] = []  # names of the functions compiled in this process, rather than read from numba's cache


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's compiler with its code kept on disk, or without where no folder can be written to or the variable `CACHE` is 0."""
    return _compile(function, forceinline=False)


def jit_inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jit` for small functions of inner loops: a call would count references to its arrays, which threads then fight over."""
    return _compile(function, forceinline=True)


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    on_disk = os.environ.get(CACHE, "1") != "0"
    dispatcher: Any
    try:
        dispatcher = numba.njit(function, cache=on_disk, nogil=True, error_model="numpy", **options)
    except RuntimeError:  # "no locator available": neither this package's folder nor the user's cache can be written
        dispatcher = numba.njit(function, nogil=True, error_model="numpy", **options)
    _guard(dispatcher._cache, function.__name__)
    result: Callable[..., Any] = dispatcher
    return result


def _guard(files: Any, name: str) -> None:
    """Let a function be compiled where its files on disk are damaged, or cannot be written; they are replaced where possible.

    numba asks here once a function and signature of this process, before it compiles and after; calls do not pass by.
    """
    load, save = files.load_overload, files.save_overload

    def load_or_compile(signature: Any, context: Any) -> Any:
        found = None
        try:
            found = load(signature, context)
        except Exception as error:  # bytes that are no pickle any more raise of all kinds
            _log.info("compiling %s: its code on disk cannot be read (%s)", name, error)
            with suppress(OSError):
                files.flush()
        if found is None:
            compiled.append(name)
        return found

    def save_if_possible(signature: Any, code: Any) -> None:
        try:
            save(signature, code)
        except Exception as error:  # a full disk, or the index that could not be replaced
            _log.info("the compiled code of %s is not kept on disk (%s)", name, error)

    files.load_overload, files.save_overload = load_or_compile, save_if_possible


def operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls kernels, saying so where it had to wait for their compiler."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        start, before = time.monotonic(), len(compiled)
        result = function(*arguments)
        if len(compiled) > before and (taken := time.monotonic() - start) > _WORTH_A_NOTE:
            _log.warning("compiled the operator %s for this machine (%.0f s)", function.__name__, taken)
        return result

    return call


def in_parts(work: Callable[[slice], None], length: int, cost: int) -> None:
    """Do the work on parts of `range(length)`, in as many threads as torch uses if there is enough of it.

    The kernels let go of the interpreter's lock. numba's own threads are left alone: they would change the number torch computes
    with, and the two would wait for each other.
    """
    threads = min(torch.get_num_threads(), length, cost // _WORTH_A_THREAD)
    if threads <= 1:
        work(slice(0, length))
        return
    parts = 4 * threads  # smaller than a thread's share, as their costs differ
    edges = [length * k // parts for k in range(parts + 1)]
    for done in [pool(threads).submit(work, slice(start, end)) for start, end in pairwise(edges)]:
        done.result()


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a forked process makes its own."""
    return ThreadPoolExecutor(threads, "rotanext")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)
