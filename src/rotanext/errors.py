"""Errors a user can act on, and the one way invalid input is reported."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

EXIT_CODES = {
    0: "all done",
    1: "done, but invalid input was skipped, counted and named",
    2: "refused, with one message",
    3: "a fault of rotanext itself, with a traceback",
    130: "interrupted",
    141: "the reader of the output went away",
}


class UserError(Exception):
    """A mistake outside the program (input, option, machine); the command line prints it and exits non-zero."""


def counted(count: int, noun: str) -> str:
    """The count and the noun, in the plural where there is not one: "1 class", "2,000 classes"."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def shortened(text: str, most: int = 200) -> str:
    """What a file says, cut where it goes on for pages."""
    return text if len(text) <= most else f"{text[:most]} ..."


def explain(path: str | Path, found: str, expected: str, advice: str, line: int | None = None, name: str | None = None) -> str:
    """Compose the one error format: `FILE:LINE: found ...; expected ...; advice.`"""
    where = f"{path}:{line}" if line is not None else str(path)
    what = f"{name}: " if name else ""
    return f"{where}: {what}found {shortened(found, 3000)}; expected {expected}. {advice}"


@dataclass
class Problems:
    """Invalid items met while reading: counted and the first few kept, or refused at once with `strict`.

    Every reader of user data takes one of these, so that the choice between skipping and refusing is the same everywhere.
    """

    strict: bool = False
    keep: int = 5
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: str | Path, found: str, expected: str, advice: str, line: int | None = None) -> None:
        """Record one invalid item; raises `UserError` when strict."""
        self.note(explain(path, found, expected, advice, line))

    def note(self, message: str) -> None:
        """Record one invalid item by its whole message; raises `UserError` when strict."""
        if self.strict:
            raise UserError(message)
        self.count += 1
        if len(self.first) < self.keep:
            self.first.append(message)

    def merge(self, other: "Problems") -> None:
        """Take over what another reader (another thread) found."""
        self.count += other.count
        self.first.extend(other.first[: max(0, self.keep - len(self.first))])

    def summary(self) -> str | None:
        """A few lines for the terminal, or None when nothing was wrong."""
        if not self.count:
            return None
        lines = [f"Skipped {counted(self.count, 'invalid item')} (--strict refuses instead):"]
        lines += [f"  {message}" for message in self.first]
        if self.count > len(self.first):
            lines.append(f"  ... and {self.count - len(self.first)} more")
        return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Wraps lazy imports of an optional extra's libraries: the core runs without them. `UserError` where one is missing."""
    try:
        yield
    except ImportError as error:
        found = f"that {error.name or 'a library'} cannot be imported ({error})"
        advice = f"Run: pip install 'rotanext[{name}]'"
        raise UserError(explain(purpose, found, f"the libraries of the extra `{name}`", advice)) from error
