"""tests/ mirrors src/rotanext: each module has the file of its tests, where a change of it is tried first.

`a/b.py` is tested by `tests/a/test_b.py`; what stands in the `__init__.py` of a package `a` by `tests/test_a.py` or
`tests/a/test_a.py`.
"""

import ast
from pathlib import Path

import pytest

from places import ROOT, TESTS

SOURCE = ROOT / "src/rotanext"
# Modules without a file of their own: where they are tested, and why there.
EXCEPTIONS = {
    "__main__.py": ("training/test_failures.py", "it calls cli.main alone; trainings there are started as `python -m rotanext`"),
    "heads/__init__.py": ("test_config.py", "it names the union of head sections alone; kinds are read there"),
}


def holds_code(path: Path) -> bool:
    """Whether there is more in a module than a docstring."""
    body = ast.parse(path.read_text()).body
    return not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def own_files(module: Path) -> list[Path]:
    """Where the tests of a module (below src/rotanext) may stand, below tests/."""
    if module.name != "__init__.py":
        return [module.with_name(f"test_{module.name}")]
    package = module.parent.name or "rotanext"
    file = f"test_{package}.py"
    return [module.parent.parent / file, module.parent / file]


def untested() -> list[str]:
    """Modules with code that have no file of tests."""
    modules = [path.relative_to(SOURCE) for path in sorted(SOURCE.rglob("*.py")) if holds_code(path)]
    missing = [module for module in modules if not any((TESTS / file).is_file() for file in own_files(module))]
    return [module.as_posix() for module in missing]


def test_every_module_has_its_file_of_tests() -> None:
    assert [name for name in untested() if name not in EXCEPTIONS] == []


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_are_still_needed_and_tested_where_they_say(name: str) -> None:
    module, (file, why) = Path(name), EXCEPTIONS[name]
    assert (SOURCE / module).is_file()
    assert not any((TESTS / own).is_file() for own in own_files(module)), "it has its own file now: take it off the table"
    assert (TESTS / file).is_file()
    assert why


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("boxes.py", ["test_boxes.py"]),
        ("cli/main.py", ["cli/test_main.py"]),
        ("config/__init__.py", ["test_config.py", "config/test_config.py"]),
        ("__init__.py", ["test_rotanext.py", "test_rotanext.py"]),
    ],
)
def test_where_tests_may_stand(module: str, files: list[str]) -> None:
    assert [file.as_posix() for file in own_files(Path(module))] == files


def test_a_docstring_is_no_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""What belongs here."""\n')
    assert not holds_code(tmp_path / "a.py")
    (tmp_path / "a.py").write_text('"""What belongs here."""\n\nFORMAT = 2\n')
    assert holds_code(tmp_path / "a.py")
