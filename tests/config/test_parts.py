"""The sections every detector has: what in them contradicts itself, and where a range ends."""

from typing import Any

import pytest
from pydantic import ValidationError

from rotanext.config import load_config
from rotanext.config.parts import AugmentConfig, PredictConfig, TrainConfig
from rotanext.section import Section

SMALL = load_config("small")


def changed(section: Section, **values: Any) -> Section:
    """The section with other values, validated anew."""
    return type(section).model_validate(section.model_dump() | values)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (SMALL.augment, {"flip_horizontal": 0.5, "flip_vertical": 0.25, "flip_diagonal": 0.25}),  # 1 in all
        (SMALL.augment, {"scale": (1.0, 1.0)}),
        (SMALL.augment, {"hue": 0.5}),
        (SMALL.augment, {"mosaic": 1.0, "crop": 1, "resize": (0.1, 2.0)}),
        (SMALL.predict, {"tile": 64, "overlap": 63}),
        (SMALL.predict, {"tile": 1, "overlap": 0}),
        (SMALL.train, {"ema": 0.0}),
        (SMALL.train, {"trackers": []}),
        (SMALL.train, {"milestones": [0]}),
    ],
    ids=str,
)
def test_the_edges_of_what_goes(section: Section, values: dict[str, Any]) -> None:
    found = changed(section, **values)
    assert {key: getattr(found, key) for key in values} == values


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (SMALL.augment, {"flip_horizontal": 0.5, "flip_vertical": 0.5, "flip_diagonal": 0.1}, "add up to more than 1"),
        (SMALL.augment, {"scale": (1.2, 1.1)}, r"\[smallest, largest\]"),
        (SMALL.augment, {"scale": (0.0, 1.0)}, "greater than 0"),
        (SMALL.augment, {"hue": 0.51}, "0.5"),
        (SMALL.augment, {"resize": (1.2, 1.1)}, r"resize must be \[smallest, largest\]"),
        (SMALL.augment, {"mosaic": 0.1}, "needs a crop"),
        (SMALL.augment, {"fill": "white"}, "'mean', 'black' or 'grey'"),
        (SMALL.train, {"flat": 1.1}, "less than or equal to 1"),
        (SMALL.predict, {"tile": 64, "overlap": 64}, "overlap 64 must be smaller than tile 64"),
        (SMALL.predict, {"tile": 0, "overlap": 0}, "greater than or equal to 1"),
        (SMALL.train, {"ema": 1.0}, "less than 1"),
        (SMALL.train, {"optimizer": "adam"}, "'sgd', 'adamw' or 'muon'"),
        (SMALL.train, {"trackers": ["comet"]}, "'tensorboard', 'wandb' or 'mlflow'"),
        (SMALL.train, {"keep": 0}, "greater than or equal to 1"),
        (SMALL.train, {"betas": (0.9,)}, "betas"),
        (SMALL.data, {"image_size": -1}, "greater than or equal to 0"),
        (SMALL.data, {"train": "folder"}, "list"),
    ],
    ids=str,
)
def test_what_does_not_go(section: Section, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(section, **values)


@pytest.mark.parametrize("section", [AugmentConfig, PredictConfig, TrainConfig])
def test_no_value_has_a_default_here(section: type[Section]) -> None:
    """A default exists once: in a recipe."""
    assert all(info.is_required() for info in section.model_fields.values())
