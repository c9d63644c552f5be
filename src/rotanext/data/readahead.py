"""Reading pictures while others are being computed on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from rotanext.data.images import read_image
from rotanext.errors import UserError

T = TypeVar("T")
AHEAD = 1  # pictures held besides the current one


def read_ahead(items: Iterable[T], path_of: Callable[[T], Path]) -> Iterator[tuple[T, np.ndarray | UserError]]:
    """Every item with its picture (uint8 RGB `[H, W, 3]`) or the reason why that cannot be read, in order.

    The next picture is read in a thread; at most `AHEAD` wait there.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[T, Future[np.ndarray | UserError]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(_read, path_of(item))))
                if len(waiting) > AHEAD:
                    current, picture = waiting.popleft()
                    yield current, picture.result()
            while waiting:
                current, picture = waiting.popleft()
                yield current, picture.result()
        finally:  # the caller has stopped early
            for _, picture in waiting:
                picture.cancel()


def _read(path: Path) -> np.ndarray | UserError:
    try:
        return read_image(path)
    except UserError as error:
        return error
