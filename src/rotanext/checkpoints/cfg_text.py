"""Configurations that the MM toolboxes keep as Python text: their values, read without running anything of it.

The text is parsed, and only literals and calls of `dict` with literals are taken from it, which is all that MMEngine writes.
"""

import ast
import warnings
from typing import Any

LONGEST = 1 << 20  # characters; real ones have some ten thousand
_NOTHING = object()  # in the place of what is no literal


def parse_cfg(text: str) -> dict[str, Any]:
    """The values that a configuration's text gives to its names; {} for a text that is no Python.

    What is no literal is left out wherever it stands: entries of dicts, elements of lists.
    """
    if len(text) > LONGEST:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in texts that Python will refuse one day
            body = ast.parse(text).body
        pairs = [
            (statement.targets[0].id, _value(statement.value))
            for statement in body
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
        ]
    except (
        SyntaxError,
        ValueError,
        TypeError,
        RecursionError,
        MemoryError,
    ):  # the parser's depth is bounded; it says so in all of these
        return {}
    return {name: value for name, value in pairs if value is not _NOTHING}


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            found = [value for value in map(_value, elements) if value is not _NOTHING]
            return found if isinstance(node, ast.List) else tuple(found)
        case ast.Dict(keys=keys, values=values):
            return _entries([(_NOTHING if key is None else _value(key), value) for key, value in zip(keys, values, strict=True)])
        case ast.Call(func=ast.Name(id="dict"), args=arguments, keywords=keywords):
            given = [value for value in map(_value, arguments) if isinstance(value, dict)]
            return {k: v for part in given for k, v in part.items()} | _entries([(word.arg, word.value) for word in keywords])
        case _:
            return _NOTHING


def _entries(pairs: list[tuple[Any, ast.expr]]) -> dict[Any, Any]:
    """Those entries that are literals, under keys that are texts or numbers."""
    known = [(key, _value(node)) for key, node in pairs if isinstance(key, str | int | float)]
    return {key: value for key, value in known if value is not _NOTHING}


def look_up(values: Any, *path: str) -> Any:
    """The value at a path of keys in nested dicts; None where there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
