"""The types that sections of the configuration are made of: strict, frozen, without unknown keys."""

from typing import Any

import pytest
from pydantic import ValidationError

from rotanext.section import Count, Fraction, Natural, NotNegative, Positive, Section, Switch


class Example(Section):
    """One key of each type."""

    fraction: Fraction = 0.5
    positive: Positive = 1.0
    not_negative: NotNegative = 0.0
    count: Count = 1
    natural: Natural = 0
    switch: Switch = False


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fraction", 0), ("fraction", 1), ("positive", 1e-9), ("positive", 3), ("not_negative", 0), ("count", 1),
        ("natural", 0), ("switch", True),
    ],
)  # fmt: skip
def test_values_at_the_edge_are_taken(key: str, value: Any) -> None:
    assert getattr(Example.model_validate({key: value}), key) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fraction", 1.01), ("fraction", -0.01), ("fraction", "0.5"), ("fraction", float("nan")), ("positive", 0),
        ("positive", float("inf")), ("positive", True), ("not_negative", -1e-9), ("count", 0), ("count", 1.0), ("count", True),
        ("natural", -1), ("natural", "3"), ("switch", 1), ("switch", "true"), ("other", 1),
    ],
)  # fmt: skip
def test_values_of_another_range_or_type_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        Example.model_validate({key: value})


def test_a_section_does_not_change() -> None:
    section = Example()
    with pytest.raises(ValidationError, match="frozen"):
        section.count = 2
    assert section.count == 1
