"""Reading ahead: in order, only so far, and an unreadable item is a result like any other."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rotanext.errors import UserError
from rotanext.images.reading import read_image, write_png
from rotanext.system.readahead import read_ahead


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (1, 0), (3, 5), (2, 100)])
def test_everything_comes_in_order(threads: int, ahead: int) -> None:
    assert [*read_ahead(range(20), lambda n: n * n, threads=threads, ahead=ahead)] == [(n, n * n) for n in range(20)]


def test_a_users_error_is_handed_on_with_its_item() -> None:
    def read(name: str) -> str:
        if name == "b":
            raise UserError("b: damaged")
        return name.upper()

    found = dict(read_ahead("abc", read))
    assert (found["a"], str(found["b"]), found["c"]) == ("A", "b: damaged", "C")


def test_another_error_ends_it() -> None:
    def read(_: int) -> int:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        next(read_ahead([1], read))


def test_no_more_is_read_than_asked_for() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for n in range(10):
            asked.append(n)
            yield n

    results = read_ahead(items(), lambda n: n, ahead=2)
    for n in range(4):
        assert next(results) == (n, n)
        assert asked[-1] <= n + 2
    results.close()
    assert len(asked) <= 7


def test_the_next_is_read_while_the_caller_works() -> None:
    read = threading.Event()

    def note(n: int) -> int:
        if n == 1:
            read.set()
        return n

    results = read_ahead([0, 1, 2], note)
    assert next(results) == (0, 0)
    assert read.wait(10), "the second was read before it was asked for"
    results.close()


def test_images_are_read_ahead_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        write_png(path, np.full((4, 4, 3), k, np.uint8))
    paths[2].write_bytes(b"no image")
    asked: list[int] = []

    def items() -> Iterator[int]:
        for k in range(5):
            asked.append(k)
            yield k

    found = []
    for k, image in read_ahead(items(), lambda k: read_image(paths[k])):
        assert len(asked) <= k + 2
        found.append((k, str(image) if isinstance(image, UserError) else int(image[0, 0, 0])))
    assert [k for k, _ in found] == [0, 1, 2, 3, 4]
    assert [value for k, value in found if k != 2] == [0, 1, 3, 4]
    assert "2.png" in str(found[2][1])


def test_reading_ahead_stops_with_its_reader(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    asked = []
    for _ in read_ahead(range(100), lambda k: asked.append(k) or tmp_path / "a.png"):  # type: ignore[func-returns-value]
        break
    assert len(asked) <= 3
