"""The files and changes of docs/extending.md, and a copy of the package that has them."""

import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from places import ROOT

PAGE = (ROOT / "docs/extending.md").read_text()
_FENCED = re.compile(r"^```(python|diff|text)\n(?:# (src/\S+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(kind: str) -> list[tuple[str, str]]:
    """(path, text) of the page's blocks of a kind."""
    return [(path, text) for found, path, text in _FENCED.findall(PAGE) if found == kind]


def files() -> dict[str, str]:
    """The text of each new file of the page, by its path in the repository."""
    return {path: f"# {path}\n{text}" for path, text in _blocks("python")}


def commands() -> list[str]:
    """The page's commands that need the extensions."""
    return [line for _, text in _blocks("text") for line in text.splitlines()]


def changed(text: str, diff: str) -> str:
    """A file's text with the hunks of a diff (`@@` between them) applied, each where its lines stand, which must be once."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines()
        assert all(line[:1] in (" ", "+", "-") for line in lines), f"a line of the diff begins with neither space, + nor -:\n{hunk}"
        before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
        assert f"\n{text}".count(f"\n{before}") == 1, f"these lines are not there once:\n{before}"
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text


def extend(folder: Path) -> Path:
    """Copy the package to a folder, and do what the page says; returns the folder to be set as PYTHONPATH."""
    shutil.copytree(ROOT / "src/rotanext", folder / "src/rotanext", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in files().items():
        assert not (folder / path).exists(), f"{path} is there already"
        (folder / path).write_text(text)
    for path, diff in _blocks("diff"):
        (folder / path).write_text(changed((folder / path).read_text(), diff))
    return folder / "src"


def module(path: str) -> Any:
    """A new file of the page as a module of its own, for what needs no change elsewhere."""
    made = ModuleType(Path(path).stem)
    exec(compile(files()[path], f"docs/extending.md: {path}", "exec"), made.__dict__)
    return made
