"""Which options of an evaluation go together."""

from pathlib import Path
from typing import Any

import pytest

from rotanext.errors import UserError
from rotanext.evaluation.job import EvaluateOptions, check_options

HERE = Path("here")


@pytest.mark.parametrize("options", [{"weights": HERE}, {"detections": HERE}, {"detections": HERE, "merge": 0.1}], ids=str)
def test_what_goes_together(options: dict[str, Any]) -> None:
    check_options(EvaluateOptions(HERE, HERE, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either --weights"),
        ({"weights": HERE, "detections": HERE}, "give either --weights"),
        ({"weights": HERE, "merge": 0.1}, "--merge belongs to --detections"),
    ],
    ids=["nothing", "both", "merge"],
)
def test_what_does_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_options(EvaluateOptions(HERE, HERE, **options))


def test_the_page_says_what_was_evaluated() -> None:
    assert EvaluateOptions(HERE, HERE, weights=Path("w")).about() == {"Weights": Path("w"), "Data": HERE}
    assert EvaluateOptions(HERE, HERE, detections=Path("d")).about() == {"Detections": Path("d"), "Data": HERE}
