"""Saved configurations of every format become today's sections."""

import json
from typing import Any

import pytest

from places import TESTS
from rotanext.config import Config, keys_of, load_config, recipe_names, validate
from rotanext.config.formats import _SINCE_3, FORMAT, RENAMED, format_of, of_any_format, to_save
from rotanext.errors import UserError

OLD = {run: json.loads((TESTS / f"files/format1/{run}/config.json").read_text()) for run in ("adamw-ema", "sgd-v1")}


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"format": 2}, 2), ({"format": 7, "model": {}}, 7), ({"model": {}}, 1), ({"backbone": {}}, FORMAT), ({}, FORMAT)],
    ids=["stated", "stated, whatever else", "format 1 has [model]", "a recipe", "nothing"],
)
def test_the_number_of_a_format(values: dict[str, Any], expected: int) -> None:
    assert format_of(values) == expected


def test_what_is_saved_comes_back() -> None:
    values = load_config("small").model_dump()
    saved = to_save(values)
    assert saved["format"] == FORMAT
    assert of_any_format(saved) == of_any_format(values) == values


@pytest.mark.parametrize("run", OLD)
def test_every_value_of_format_1_is_where_it_went(run: str) -> None:
    before, after = OLD[run], of_any_format(OLD[run])
    config = validate(after, run)
    kept = {f"{section}.{key}": value for section, keys in before.items() if section != "name" for key, value in keys.items()}
    for key, value in kept.items():
        section, _, leaf = RENAMED.get(key, key).partition(".")
        if key == "model.layer_scale":  # which backbones of timm do not have
            assert leaf not in after["backbone"]
        elif key == "model.backbone":
            assert (config.backbone.kind, config.backbone.name) == ("timm", value.removeprefix("timm:"))
        else:
            assert after[section][leaf] == value, key
    assert json.dumps(before) == json.dumps(json.loads((TESTS / f"files/format1/{run}/config.json").read_text())), "left alone"


def test_a_convnext_of_format_1_has_no_keys_of_timm() -> None:
    values = of_any_format(OLD["sgd-v1"] | {"model": OLD["sgd-v1"]["model"] | {"backbone": "convnext_atto"}})
    assert values["backbone"]["kind"] == "convnext"
    assert {"frozen_stages", "frozen_norm"}.isdisjoint(values["backbone"])
    assert validate(values, "here").backbone.layer_scale == OLD["sgd-v1"]["model"]["layer_scale"]


def test_keys_that_came_later_have_the_value_of_what_was_done_before() -> None:
    train = {key: value for key, value in OLD["sgd-v1"]["train"].items() if key not in ("save_every", "keep", "shard", "trackers")}
    found = of_any_format(OLD["sgd-v1"] | {"train": train})["train"]
    assert (found["save_every"], found["keep"], found["shard"], found["trackers"]) == (0, 1, False, ["tensorboard"])
    assert of_any_format(OLD["sgd-v1"])["train"]["save_every"] == OLD["sgd-v1"]["train"]["save_every"] == 2


@pytest.mark.parametrize("model", [3, None, [], {"backbone": 3}, {"backbone": None}, {}], ids=str)
def test_broken_values_are_left_to_the_validation(model: object) -> None:
    """They come from files that anyone may have written: nothing but a `UserError` of `validate` may come of them."""
    values = of_any_format({"model": model, "train": "x"})
    assert values["train"] == "x"
    assert values["head"]["kind"] == "retina"


def without_later_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {
        section: {key: value for key, value in content.items() if key not in _SINCE_3.get(section, {})}
        if isinstance(content, dict)
        else content
        for section, content in values.items()
    }


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_configuration_of_format_2_means_what_it_meant(recipe: str) -> None:
    """The recipes of its time state the same values, so nothing but the keys that came later is added."""
    values = json.loads(load_config(recipe).model_dump_json())
    former = without_later_keys(values)
    assert sum(map(len, values.values())) - sum(map(len, former.values())) == sum(map(len, _SINCE_3.values()))
    if "retinanet" in recipe:
        assert of_any_format({"format": 2, **former}) == values
    changed = former | {"train": former["train"] | {"flat": 0.25}}
    assert of_any_format({"format": 2, **changed})["train"]["flat"] == 0.25, "what is stated stays"
    with pytest.raises(UserError, match=r"key 'train\.flat' is missing"):
        validate(of_any_format({"format": FORMAT, **former}), "here")


def test_today_has_the_keys_that_formats_name() -> None:
    assert set(RENAMED.values()) <= set(keys_of(Config))
    assert {f"{section}.{key}" for section, keys in _SINCE_3.items() for key in keys} <= set(keys_of(Config))


@pytest.mark.parametrize("saved", [to_save(load_config("small").model_dump()) | {"format": 2}, *OLD.values()], ids=["2", *OLD])
def test_absurd_boxes_were_kept_before_there_was_a_choice(saved: dict[str, Any]) -> None:
    predict = {key: value for key, value in saved["predict"].items() if key != "drop_absurd"}
    assert of_any_format(saved | {"predict": predict})["predict"]["drop_absurd"] is False
    for choice in (True, False):
        assert of_any_format(saved | {"predict": predict | {"drop_absurd": choice}})["predict"]["drop_absurd"] is choice
    assert "drop_absurd" not in of_any_format({"predict": predict})["predict"], "recipes, which have no number, state it"
