"""Configurations as Python text: what is taken from them, and that nothing is run."""

from typing import Any

import pytest

from rotanext.checkpoints.cfg_text import LONGEST, look_up, parse_cfg


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a = 1\nb = -0.5\nc = 'x'\nd = None\ne = True", {"a": 1, "b": -0.5, "c": "x", "d": None, "e": True}),
        ("a = (1, 2,)\nb = [1, [2]]\nc = {1}", {"a": (1, 2), "b": [1, [2]], "c": (1,)}),
        ("a = dict(b=dict(c=1), d={'e': 2, 3: 4})", {"a": {"b": {"c": 1}, "d": {"e": 2, 3: 4}}}),
        ("a = dict({'x-y': 1}, z=2)", {"a": {"x-y": 1, "z": 2}}),  # as MMEngine writes keys that are no names
        ("a = 1\na = 2", {"a": 2}),
        # no literals: left out where they stand
        ("a = b\nc = 1", {"c": 1}),
        ("a = dict(b=c, d=1)", {"a": {"d": 1}}),
        ("a = [b, 1, open('canary', 'w')]", {"a": [1]}),
        ("a = dict(**b, c=1)", {"a": {"c": 1}}),
        ("a = {**b, 'c': 1}", {"a": {"c": 1}}),
        ("a = {(1, 2): 3, 'c': 1}", {"a": {"c": 1}}),
        ("a = list(b=1)\nd = e.dict(f=1)", {}),
        ("a, b = 1, 2\nc.d = 1\ne[0] = 1\nf += 1", {}),
        ("import os\nos.system('touch canary')\na = 1", {"a": 1}),
        ("a = -'x'\nb = --1\nc = 1 + 1", {}),
        ("a = '\\d'", {"a": "\\d"}),  # no warning
        # no Python
        ("a = ", {}),
        ("", {}),
        ("a = '\0'", {}),
        ("a = " + "9" * 10_000, {}),
        ("a = " + "[" * 5000 + "]" * 5000, {}),
        ("a = " + "-" * 50_000 + "1", {}),
        ("a = b" + ".c" * 100_000, {}),
        ("a = " + "1+" * 100_000 + "1", {}),
        ("a = '" + "x" * LONGEST + "'", {}),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("error")
def test_literals_of_a_text(text: str, values: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_cfg(text) == values
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "found"), [(("a", "b"), 1), (("a", "c"), None), (("a", "d"), None), (("x", "b"), None), (("a", "b", "c"), None)]
)
def test_looking_up(path: tuple[str, ...], found: Any) -> None:
    assert look_up({"a": {"b": 1, "c": None}}, *path) == found
    assert look_up(None, *path) is None
