"""What an entry of the table of layouts does: recognise, change, rename, and say what is left out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rotanext.checkpoints.layout import Checkpoint, Layout, Translated, is_number, mapping_of, renamed, without
from rotanext.checkpoints.unpickle import Placeholder
from rotanext.errors import UserError

ONE = torch.ones(1)


def test_a_third_toolbox_is_an_entry() -> None:
    """Its habits before its names: values change while they have theirs."""

    def doubled(checkpoint: Checkpoint) -> Translated:
        return Translated({key: 2 * value for key, value in checkpoint.weights.items()}, [f"doubled, of {checkpoint.meta['by']}"])

    layout = Layout("toy", "detector", (("a.weight", "a.bias"), ("b",)), ((r"^a\.", "head."), (r"head\.bias", "head.b")), doubled)
    file = Checkpoint(Path("t.pth"), {"a.weight": ONE, "a.bias": ONE}, {"meta": {"by": "toy"}})
    assert layout.fits(file.weights)
    assert layout.fits({"b": 0})
    assert not layout.fits({"a.weight": 0})
    found = layout.apply(file)
    assert list(found.weights) == ["head.weight", "head.b"]
    assert found.weights["head.b"].item() == 2
    assert found.notes == ["doubled, of toy"]


def test_two_names_for_one() -> None:
    with pytest.raises(UserError, match=r"w\.pth: found weights that hold b twice"):
        renamed({"a": ONE, "b": ONE}, (("a", "b"),), Path("w.pth"))


def test_what_is_left_out_is_named() -> None:
    weights = {f"x.{i}": ONE for i in range(5)} | {"y": ONE}
    assert without(weights, "x.") == ({"y": ONE}, ["ignored: x.0, x.1, x.2, x.3 ..."])
    assert without(weights, "z.") == (weights, [])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1, True),
        (0.5, True),
        (-1e38, True),
        (True, False),
        ("1", False),
        (float("nan"), False),
        (float("inf"), False),
        (10**400, False),
    ],
)
def test_numbers(value: Any, found: bool) -> None:
    assert is_number(value) == found


def test_dicts_of_toolboxes() -> None:
    placeholder = Placeholder("mmengine.config.ConfigDict")
    placeholder.mapping["a"] = 1
    assert mapping_of(placeholder) == mapping_of({"a": 1}) == {"a": 1}
    assert mapping_of("text") == mapping_of(None) == {}
