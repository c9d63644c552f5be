"""Reading ahead: in order, only so far, and an unreadable item is a result like any other."""

import threading
from collections.abc import Iterator

import pytest

from rotanext.errors import UserError
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
