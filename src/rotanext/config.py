"""The configuration: validated, nested, without defaults. A recipe states every value, so reading one file tells the whole system.

A value is overridden by its dotted key (`train.epochs=3`); an unknown key or a value of the wrong type is an error that names the
nearest valid key.
"""

import difflib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rotanext.errors import UserError, shortened
from rotanext.heads.anchors import AnchorRule

# Strict: `true` is no number and "3" no count; a whole number may stand for a float.
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
_Ratio = Annotated[float, Field(ge=0.01, le=100, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Switch = Annotated[bool, Field(strict=True)]
_LONGEST_RECIPE = 32_000  # characters; the TOML reader's time grows with the square of a dotted key's length
_MOST_FAULTS = 20  # told of one file


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """The network."""

    backbone: str  # a name of models/convnext.py, or timm:NAME
    weights: str  # backbone weights: "" for none, a local file of any known layout, or a name on the Hugging Face hub
    drop_path: Fraction  # chance that a block is left out, rising linearly to this
    layer_scale: Annotated[float, Field(ge=0, strict=True)]  # first value of the blocks' gains (our ConvNeXt)
    frozen_stages: Annotated[int, Field(ge=0, le=4, strict=True)]  # timm: 0 none; k: the stem and the first k stages
    frozen_norm: Switch  # timm: BatchNorm keeps its stored statistics
    gradient_checkpointing: Switch  # less memory, a third more work
    fpn_channels: Count  # of the pyramid and the head
    stacked_convs: Count  # convolutions before each output of the head
    anchors: Literal["v0", "v1"]  # see heads/anchors.py
    anchor_scale: Annotated[float, Field(ge=0.1, le=100, strict=True)]  # side of the smallest square anchor, in strides
    anchor_octaves: Annotated[int, Field(ge=1, le=8, strict=True)]  # sizes between one level and the next
    anchor_ratios: Annotated[tuple[_Ratio, ...], Field(min_length=1, max_length=16)]  # height / width

    @property
    def anchor_rule(self) -> AnchorRule:
        """The anchors these values describe."""
        return AnchorRule(self.anchors, self.anchor_scale, self.anchor_octaves, self.anchor_ratios)


class DataConfig(_Section):
    """Which images, and how they come in."""

    train: list[str]  # DOTA folders
    val: list[str]  # DOTA folders; empty: no validation
    classes: str  # "auto": the names found in the labels; dota1.0, dota1.5, dota2.0; or a text file with one name a line
    image_size: Natural  # images are resized to fit this square; 0: as they are
    background: Switch  # train on images without objects, too
    workers: Natural
    cache: Switch  # keep decoded images in memory


class AugmentConfig(_Section):
    """Random changes of training images; all exact on corners."""

    flip_horizontal: Fraction
    flip_vertical: Fraction
    flip_diagonal: Fraction  # both at once
    quarter_turns: Fraction  # chance of a turn by 90, 180 or 270 degrees
    rotate: Fraction  # chance of a turn by any angle
    scale: tuple[Positive, Positive]  # range of a random zoom
    translate: Fraction  # largest random shift, in image sizes
    brightness: Fraction
    contrast: Fraction
    saturation: Fraction
    hue: Annotated[float, Field(ge=0, le=0.5, strict=True)]

    @model_validator(mode="after")
    def _consistent(self) -> "AugmentConfig":
        if self.flip_horizontal + self.flip_vertical + self.flip_diagonal > 1:
            raise ValueError("the three flip chances add up to more than 1")
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [smallest, largest]")
        return self


class AssignConfig(_Section):
    """Which anchors learn an object, see `ops.assign_anchors`."""

    positive_iou: Fraction  # from this IoU on an anchor is positive
    negative_iou: Fraction  # below it is negative; in between it learns nothing

    @model_validator(mode="after")
    def _consistent(self) -> "AssignConfig":
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou {self.negative_iou} is larger than positive_iou {self.positive_iou}")
        return self


class LossConfig(_Section):
    """The training loss."""

    regression: Literal["kld-stable", "kld", "gwd"]
    weight: Positive


class TrainConfig(_Section):
    """Optimisation."""

    epochs: Count
    batch_size: Count  # per process
    accumulate: Count  # batches per optimiser step
    optimizer: Literal["sgd", "adamw"]
    lr: Positive
    scale_lr: Switch  # multiply lr by the total batch over 2
    momentum: Fraction  # sgd
    betas: tuple[Fraction, Fraction]  # adamw
    weight_decay: Annotated[float, Field(ge=0, strict=True)]
    no_decay: list[str]  # parameters whose name contains one of these have no weight decay
    schedule: Literal["step", "cosine"]
    milestones: list[Natural]  # step: epochs after which the rate falls to a tenth
    warmup_steps: Natural
    warmup_ratio: Fraction
    clip_norm: Annotated[float, Field(ge=0, strict=True)]  # largest L2 norm of the gradient; 0: no clipping
    ema: Annotated[float, Field(ge=0, lt=1, strict=True)]  # decay of the averaged weights; 0: none
    precision: Literal["fp32", "bf16", "fp16"]
    seed: Natural
    validate_every: Natural  # epochs; 0: only at the end
    save_every: Natural  # steps from one saved state to the next, besides those at the end of every epoch; 0: only those
    keep: Count  # saved states that are kept, the newest ones
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]]  # where the figures go besides metrics.jsonl
    shard: Switch  # several processes share the parameters (FSDP) instead of each having them all (DDP)
    best_metric: Literal["map50", "map75", "map50_95"]


class PredictConfig(_Section):
    """From logits to detections."""

    image_size: Natural  # images are resized to fit this square; 0: their own resolution
    tile: Count  # larger images are cut into tiles of this size ...
    overlap: Natural  # ... that overlap by this much (only where image_size is 0)
    score_threshold: Fraction
    top_k: Count
    iou_threshold: Fraction
    max_detections: Count
    merge_iou: Fraction

    @model_validator(mode="after")
    def _consistent(self) -> "PredictConfig":
        if self.overlap >= self.tile:
            raise ValueError(f"overlap {self.overlap} must be smaller than tile {self.tile}")
        return self


class Config(_Section):
    """Everything a run depends on."""

    name: str
    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig
    assign: AssignConfig
    loss: LossConfig
    train: TrainConfig
    predict: PredictConfig


def keys_of(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration."""
    keys: list[str] = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += keys_of(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def nearest_key(key: str) -> str:
    """The valid key most like `key`, by its whole name or its last part."""
    keys = keys_of()
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = [k for k in keys if k.rsplit(".", 1)[-1] == leaf]
    return (by_leaf or difflib.get_close_matches(key, keys, 1, 0.5) or _nearest_leaf(leaf, keys))[0]


def _nearest_leaf(leaf: str, keys: list[str]) -> list[str]:
    leaves = {k.rsplit(".", 1)[-1]: k for k in keys}
    return [leaves[name] for name in difflib.get_close_matches(leaf, leaves, 1, 0)]


def _explain(error: ValidationError, origin: str) -> str:
    lines = []
    faults = error.errors()
    for item in faults[:_MOST_FAULTS]:
        key = shortened(".".join(str(part) for part in item["loc"] if not isinstance(part, int)))
        if item["type"] == "extra_forbidden":
            lines.append(f"{origin}: unknown key '{key}'; nearest: '{nearest_key(key)}'")
        elif item["type"] == "missing":
            lines.append(f"{origin}: key '{key}' is missing")
        else:
            lines.append(f"{origin}: {key or 'configuration'} = {shortened(repr(item['input']))}: {item['msg']}")
    if len(faults) > _MOST_FAULTS:
        lines.append(f"{origin}: and {len(faults) - _MOST_FAULTS} more faults")
    return "\n".join(lines)


# Keys that came after the first checkpoints were saved, by section.
_LATER: dict[str, dict[str, Any]] = {"train": {"save_every": 0, "keep": 1, "shard": False, "trackers": ["tensorboard"]}}


def validate(values: dict[str, Any], origin: str) -> Config:
    """A `Config` from plain nested values; raises UserError naming `origin` and each wrong or unknown key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, origin)) from None


def of_any_version(values: Any) -> Any:
    """The values of a saved configuration, with the keys that came later than it set to what was done before there were any."""
    if not isinstance(values, dict):
        return values
    return values | {
        name: {**_LATER[name], **section} if name in _LATER and isinstance(section, dict) else section
        for name, section in values.items()
    }


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


def load_config(recipe: str, overrides: list[str] | None = None) -> Config:
    """The configuration of a recipe, by its name or the path of a .toml or .json file, with `key=value` overrides applied."""
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
    for override in overrides or []:
        _apply(values, override)
    return validate(values, recipe)


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with `key=value` overrides applied; raises UserError like `load_config`."""
    values = config.model_dump(mode="json")
    for override in overrides:
        _apply(values, override)
    return validate(values, config.name)


def flat_values(config: Config) -> dict[str, Any]:
    """Every dotted key with its value, as plain data."""
    values = config.model_dump(mode="json")

    def value_of(key: str) -> Any:
        found: Any = values
        for part in key.split("."):
            found = found[part]
        return found

    return {key: value_of(key) for key in keys_of()}


def _number_or_text(text: str) -> float | str:
    """Numbers that TOML writes otherwise, such as `.5`; everything else as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `key=value` in nested values; the value is read as TOML, and as plain text where that fails."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise UserError(f"override '{override}': expected KEY=VALUE, for example train.epochs=3")
    if key not in keys_of():
        raise UserError(f"override '{override}': unknown key '{key}'; nearest: '{nearest_key(key)}'")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = _number_or_text(text.strip())
    *parents, leaf = key.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            return  # a recipe with a value where a section belongs; validation says so
        values = section
    if isinstance(values.get(leaf), list) and isinstance(value, str):
        value = [value]  # one folder where several may stand
    values[leaf] = value
