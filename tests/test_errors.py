"""The form of every message, and what is counted, kept and refused."""

import pytest

from rotanext.errors import Problems, UserError, explain


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
