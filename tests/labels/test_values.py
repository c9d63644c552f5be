"""Values of label files that somebody else wrote."""

import pytest

from rotanext.labels.values import Invalid, level


@pytest.mark.parametrize(("value", "wanted"), [("false", 0), ("true", 1), (True, 1), (0, 0), (" 2 ", 2), ("1", 1), (2, 2)])
def test_words_for_difficulty(value: object, wanted: int) -> None:
    assert level(value) == wanted


@pytest.mark.parametrize("value", ["1       xyz", "3", -1, "9" * 5000, None, [1], 2.5])
def test_what_is_no_difficulty(value: object) -> None:
    with pytest.raises(Invalid) as refused:
        level(value)
    assert refused.value.expected == "a difficulty of 0, 1 or 2"
