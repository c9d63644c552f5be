"""The configuration: validated, nested, without defaults. A recipe states every value, so reading one file tells the whole system.

A value is overridden by its dotted key (`train.epochs=3`); an unknown key or a value of the wrong type is an error that names the
nearest valid key. Each part of a detector has its section beside it (a literal `kind` tells which); here they are composed.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rotanext.config.formats import FORMAT, READ, RENAMED, format_of, of_any_format, to_save
from rotanext.config.parts import AugmentConfig, DataConfig, PredictConfig, TrainConfig
from rotanext.errors import UserError, explain, shortened
from rotanext.heads import HeadConfig
from rotanext.models.backbones import BackboneConfig
from rotanext.models.necks import NeckConfig
from rotanext.section import Section

_LONGEST_RECIPE = 32_000  # characters; the TOML reader's time grows with the square of a dotted key's length
_MOST_FAULTS = 20  # told of one file


class Config(Section):
    """Everything a run depends on."""

    name: str
    backbone: BackboneConfig
    neck: NeckConfig
    head: HeadConfig
    data: DataConfig
    augment: AugmentConfig
    train: TrainConfig
    predict: PredictConfig


def sections_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that may stand at a place: one, or those of a union over `kind`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_of(argument)


def keys_of(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration, those of all kinds of a part included."""
    keys: dict[str, None] = {}
    for name, info in section.model_fields.items():
        found = list(sections_of(info.annotation))
        keys |= dict.fromkeys(key for one in found for key in keys_of(one, f"{prefix}{name}."))
        if not found:
            keys[prefix + name] = None
    return list(keys)


def nearest_key(key: str) -> str:
    """The valid key most like `key`, by its whole name or its last part."""
    keys = keys_of()
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = [k for k in keys if k.rsplit(".", 1)[-1] == leaf]
    return (by_leaf or difflib.get_close_matches(key, keys, 1, 0.5) or _nearest_leaf(leaf, keys))[0]


def _nearest_leaf(leaf: str, keys: list[str]) -> list[str]:
    leaves = {k.rsplit(".", 1)[-1]: k for k in keys}
    return [leaves[name] for name in difflib.get_close_matches(leaf, leaves, 1, 0)]


def _unknown(key: str, value: Any) -> str:
    """What to say of a key that there is none of; of a whole section of format 1, where each of its keys went."""
    inner = [f"{key}.{leaf}" for leaf in value] if isinstance(value, dict) else [key]
    moved = [f"'{old}' is now '{RENAMED[old]}'" for old in inner if old in RENAMED]
    if moved:
        return f"unknown key '{key}'; " + "; ".join(moved)
    if inner and key in {old.partition(".")[0] for old in RENAMED}:  # left over from a file of format 1
        key = shortened(inner[0])
        if near := difflib.get_close_matches(key, RENAMED, 1, 0.5):
            return f"unknown key '{key}'; nearest: '{near[0]}', which is now '{RENAMED[near[0]]}'"
    return f"unknown key '{key}'; nearest: '{nearest_key(key)}'"


def _explain(error: ValidationError, values: Any, origin: str) -> str:
    lines = []
    faults = error.errors()
    for item in faults[:_MOST_FAULTS]:
        key, kind = _key_of(item["loc"], values)
        if item["type"] == "extra_forbidden":
            of_kind = f" of kind '{kind}'" if kind and key in keys_of() else ""
            lines.append(f"{origin}: {_unknown(key, item['input'])}" if not of_kind else f"{origin}: no key '{key}'{of_kind}")
        elif item["type"] == "missing":
            lines.append(f"{origin}: key '{key}' is missing")
        elif item["type"].startswith("union_tag"):
            kinds = item.get("ctx", {}).get("expected_tags", "")
            lines.append(f"{origin}: {key}.kind: found {shortened(str(_kind(item['input'])))}; expected one of {kinds or 'a name'}")
        elif isinstance(item["input"], dict) and key:  # values that do not go together
            lines.append(f"{origin}: {key}: {item['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{origin}: {key or 'configuration'} = {shortened(repr(item['input']))}: {item['msg']}")
    if len(faults) > _MOST_FAULTS:
        lines.append(f"{origin}: and {len(faults) - _MOST_FAULTS} more faults")
    return "\n".join(lines)


def _kind(section: Any) -> Any:
    return section.get("kind", "none") if isinstance(section, dict) else type(section).__name__


def _key_of(place: tuple[int | str, ...], values: Any) -> tuple[str, str | None]:
    """The dotted key at a place that pydantic names, and the kind of its part; places in a union hold the kind as a step."""
    steps = [step for step in place if not isinstance(step, int)]
    kind = None
    if len(steps) > 1 and isinstance(values, dict) and _kind(values.get(steps[0])) == steps[1]:
        kind = steps.pop(1)
    return shortened(".".join(steps)), kind


def validate(values: dict[str, Any], origin: str) -> Config:
    """A `Config` from plain nested values; raises UserError naming `origin` and each wrong or unknown key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, values, origin)) from None


def _of_today(values: Any, origin: str) -> Any:
    """A saved configuration's values in today's format; UserError for one that is not known."""
    if isinstance(values, dict) and format_of(values) not in READ:
        found = f"a configuration of format {shortened(repr(values['format']))}"
        raise UserError(
            explain(origin, found, f"format 1 to {FORMAT}", "Use the version of rotanext that wrote it, or a newer one.")
        )
    return of_any_format(values) if isinstance(values, dict) else values


def validate_saved(values: Any, origin: str, chosen: Mapping[str, Any] | None = None) -> Config:
    """A `Config` from a saved configuration of any format, with `chosen` values by dotted keys; UserError like `validate`."""
    today = _of_today(values, origin)
    return validate(_changed(today, (), chosen) if chosen and isinstance(today, dict) else today, origin)


def saved_values(config: Config) -> dict[str, Any]:
    """A configuration as plain data to be saved, with the number of its format."""
    return to_save(config.model_dump(mode="json"))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("rotanext") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _parse(text: str, is_json: bool, origin: str) -> dict[str, Any]:
    """The nested values of a recipe's text; raises UserError naming `origin` where it holds none."""
    if not is_json and len(text) > _LONGEST_RECIPE:
        raise UserError(f"{origin}: found {len(text)} characters; expected a recipe of at most {_LONGEST_RECIPE}. Check the file.")
    try:
        values = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise UserError(f"{origin}: not valid {'JSON' if is_json else 'TOML'}: {shortened(str(error))}") from None
    if not isinstance(values, dict):
        raise UserError(f"{origin}: found a {type(values).__name__}; expected sections of keys and values")
    return values


def load_config(recipe: str, overrides: Sequence[str] = (), chosen: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a recipe, by its name or the path of a .toml or .json file.

    `key=value` overrides are applied, then the values `chosen`, by their dotted keys. Raises UserError naming each wrong key.
    """
    return validate(_changed(recipe_values(recipe), overrides, chosen), recipe)


def recipe_values(recipe: str) -> dict[str, Any]:
    """The plain nested values of a recipe in today's format, not validated; UserError where there is none, or it is no recipe."""
    path = Path(recipe)
    if path.suffix in (".toml", ".json"):
        if not path.is_file():
            raise UserError(f"{path}: no such file; recipes that come with rotanext: {', '.join(recipe_names())}")
        is_json = path.suffix == ".json"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as text ({error})") from None
    elif recipe in recipe_names():
        text, is_json = (resources.files("rotanext") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8"), False
    else:
        near = difflib.get_close_matches(recipe, recipe_names(), 1, 0)
        raise UserError(f"no recipe '{recipe}'; nearest: '{near[0]}'; all: {', '.join(recipe_names())}")
    values = _parse(text, is_json, recipe)
    return _of_today(values, recipe) if is_json else values  # JSON is what runs save, of any format


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with `key=value` overrides applied; raises UserError like `load_config`."""
    return validate(_changed(config.model_dump(mode="json"), overrides), config.name)


def flat_values(config: Config) -> dict[str, Any]:
    """Every dotted key with its value, as plain data."""
    sections = config.model_dump(mode="json")
    return {
        name if leaf is None else f"{name}.{leaf}": value
        for name, content in sections.items()
        for leaf, value in (content.items() if isinstance(content, dict) else [(None, content)])
    }


def _number_or_text(text: str) -> float | str:
    """Numbers that TOML writes otherwise, such as `.5`; everything else as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def _changed(values: dict[str, Any], overrides: Sequence[str], chosen: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Nested values with `key=value` overrides, then `chosen` ones, in their place; in place."""
    for override in overrides:
        _put(values, *_parsed(override))
    for key, value in (chosen or {}).items():
        _put(values, key, value)
    return values


def _parsed(override: str) -> tuple[str, Any]:
    """Key and value of one `key=value`; the value is read as TOML, or as plain text where it does not look like TOML."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals:
        raise UserError(f"override '{override}': expected KEY=VALUE, for example train.epochs=3")
    if key not in keys_of():
        raise UserError(f"override '{override}': {_unknown(key, None)}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text[:1] in ("[", "{", '"', "'"):
            raise UserError(f"override '{override}': the value is no valid TOML ({error})") from None
    return key, _number_or_text(text)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in nested values."""
    *parents, leaf = key.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            return  # a recipe with a value where a section belongs; validation says so
        values = section
    if isinstance(values.get(leaf), list) and isinstance(value, str):
        value = [value]  # one folder where several may stand
    values[leaf] = value
    if leaf == "kind" and parents:
        _leave_foreign(values, parents[0], value)


def _leave_foreign(section: dict[str, Any], name: str, kind: Any) -> None:
    """Take away the values of a part that another kind of it does not have; what it needs besides, validation names."""
    for found in sections_of(Config.model_fields[name].annotation):
        if kind in get_args(found.model_fields["kind"].annotation):
            for key in section.keys() - found.model_fields.keys():
                del section[key]
