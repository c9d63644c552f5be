"""Reading images while others are being computed on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rotanext.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    items: Iterable[T], read: Callable[[T], R], *, threads: int = 1, ahead: int = 1
) -> Iterator[tuple[T, R | UserError]]:
    """Every item with what `read` makes of it, or the UserError that it raises, in order.

    The next items are read in threads; at most `ahead` results wait besides the current one.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[T, Future[R | UserError]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(_error_or, read, item)))
                if len(waiting) > ahead:
                    current, result = waiting.popleft()
                    yield current, result.result()
            while waiting:
                current, result = waiting.popleft()
                yield current, result.result()
        finally:  # the caller has stopped early
            for _, result in waiting:
                result.cancel()


def _error_or(read: Callable[[T], R], item: T) -> R | UserError:
    try:
        return read(item)
    except UserError as error:
        return error
