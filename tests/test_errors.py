"""The form of every message, and what is counted, kept and refused."""

import pytest

from rotanext.errors import Problems, UserError, counted, explain, extra, first_line, shortened


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "a.txt: found x; expected y. Do z."),
        ({"line": 7}, "a.txt:7: found x; expected y. Do z."),
        ({"line": 7, "name": "ship"}, "a.txt:7: ship: found x; expected y. Do z."),
    ],
    ids=["file", "line", "name"],
)
def test_explain(options: dict, expected: str) -> None:
    assert explain("a.txt", "x", "y", "Do z.", **options) == expected


def test_problems_are_counted_and_the_first_few_kept() -> None:
    problems = Problems(keep=2)
    assert problems.summary() is None
    for line in range(1, 5):
        problems.add("a.txt", "x", "y", "Do z.", line)
    assert problems.count == 4
    assert problems.summary() == (
        "Skipped 4 invalid items (--strict refuses instead):\n"
        "  a.txt:1: found x; expected y. Do z.\n"
        "  a.txt:2: found x; expected y. Do z.\n"
        "  ... and 2 more"
    )


def test_one_problem_is_singular_and_whole() -> None:
    problems = Problems()
    problems.add("a.txt", "x", "y", "Do z.")
    assert problems.summary() == "Skipped 1 invalid item (--strict refuses instead):\n  a.txt: found x; expected y. Do z."


def test_strict_refuses_the_first() -> None:
    problems = Problems(strict=True)
    with pytest.raises(UserError, match=r"a\.txt:3: found x; expected y"):
        problems.add("a.txt", "x", "y", "Do z.", 3)
    assert problems.count == 0


@pytest.mark.parametrize(("ours", "theirs", "kept"), [(1, 1, 2), (2, 5, 3), (0, 4, 3), (3, 3, 3)])
def test_merging_what_workers_found(ours: int, theirs: int, kept: int) -> None:
    first, second = Problems(keep=3), Problems(keep=3)
    for problems, count in ((first, ours), (second, theirs)):
        for line in range(count):
            problems.add("a.txt", "x", "y", "Do z.", line)
    first.merge(second)
    assert first.count == ours + theirs
    assert len(first.first) == kept


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [(1, "class", "1 class"), (0, "class", "0 classes"), (2, "tile", "2 tiles"), (2000, "class", "2,000 classes")],
)
def test_counts_have_their_plural(count: int, noun: str, expected: str) -> None:
    assert counted(count, noun) == expected


@pytest.mark.parametrize(("length", "expected"), [(200, "x" * 200), (201, "x" * 200 + " ...")])
def test_what_goes_on_for_pages_is_cut(length: int, expected: str) -> None:
    assert shortened("x" * length) == expected


def test_messages_stay_short() -> None:
    assert len(explain("a.txt", "x" * 100_000, "y", "Do z.")) < 3100


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("\n first\nsecond"), "first"),
        (ValueError("one"), "one"),
        (ValueError(), "ValueError"),
        (OSError("  "), "OSError"),
    ],
)
def test_the_first_line_of_an_exception(error: Exception, expected: str) -> None:
    assert first_line(error) == expected


def test_a_missing_library_names_its_extra() -> None:
    with (
        pytest.raises(UserError, match=r"^a map: found that no_such_library cannot be .*pip install 'rotanext\[geo\]'") as error,
        extra("geo", "a map"),
    ):
        import no_such_library  # noqa: F401
    assert isinstance(error.value.__cause__, ImportError)


def test_other_errors_than_missing_libraries_pass() -> None:
    with pytest.raises(ValueError, match="mine"), extra("geo", "a map"):
        raise ValueError("mine")
