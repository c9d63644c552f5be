"""Saved configurations of every format: older ones are brought to today's before they are validated.

Format 1 (rotanext 0.1.0 up to 5b2826e) had no number. Its `[model]` held backbone, neck and head; `[assign]` and `[loss]`
belong to the head now. Format 2 had fewer keys than today's.
"""

from typing import Any

FORMAT = 3
READ = range(1, FORMAT + 1)  # formats that can be read
# Where the keys of format 1 went; of those that are not here the key is the same.
RENAMED = {
    "model.backbone": "backbone.name",
    "model.weights": "backbone.weights",
    "model.drop_path": "backbone.drop_path",
    "model.layer_scale": "backbone.layer_scale",
    "model.frozen_stages": "backbone.frozen_stages",
    "model.frozen_norm": "backbone.frozen_norm",
    "model.gradient_checkpointing": "backbone.gradient_checkpointing",
    "model.fpn_channels": "neck.channels",
    "model.tower_depth": "head.stacked_convs",
    "model.anchors": "head.anchors",
    "model.anchor_scale": "head.anchor_scale",
    "model.anchor_octaves": "head.anchor_octaves",
    "model.anchor_ratios": "head.anchor_ratios",
    "assign.positive_iou": "head.positive_iou",
    "assign.negative_iou": "head.negative_iou",
    "loss.regression": "head.box_loss",
    "loss.weight": "head.box_loss_weight",
    "predict.gap": "predict.overlap",
}
# Keys that came after the first files of format 1, by section, with what was done before there were any.
_LATER: dict[str, dict[str, Any]] = {"train": {"save_every": 0, "keep": 1, "shard": False, "trackers": ["tensorboard"]}}
# The same for keys that came with format 3.
_SINCE_3: dict[str, dict[str, Any]] = {
    "augment": {
        "round_classes": [], "resize": [1.0, 1.0], "crop": 0, "visible": 0.0, "fill": "mean",
        "mosaic": 0.0, "mosaic_turns": False, "mixup": 0.0, "paste": 0.0, "close_epochs": 0,
    },
    "data": {"padding": "mean"},
    "train": {
        "start": "", "matrix_lr": 0.02, "matrix_steps": 5, "not_matrices": [],
        "flat": 0.0, "final_ratio": 0.01, "ema_warmup": 0,
    },
    "predict": {"drop_absurd": False},
}  # fmt: skip
_OF_CONVNEXT, _OF_TIMM = ("layer_scale",), ("frozen_stages", "frozen_norm")


def to_save(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration as they are saved: with the number of their format."""
    return {"format": FORMAT, **values}


def format_of(values: dict[str, Any]) -> Any:
    """The number of a saved configuration's format; of a recipe, which has none, today's."""
    return values.get("format", 1 if "model" in values else FORMAT)


def of_any_format(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a saved configuration of any format as today's sections, without the number."""
    written = format_of(values)
    rest = {key: value for key, value in values.items() if key != "format"}
    if written == 1:
        rest = _from_format_1(rest)
    return _with_later_keys(rest, _SINCE_3) if written < 3 else rest


def _with_later_keys(values: dict[str, Any], later: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sections, with the keys that they did not have yet."""
    return {
        section: later.get(section, {}) | content if isinstance(content, dict) else content for section, content in values.items()
    }


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """Today's sections from those of format 1."""
    result: dict[str, Any] = {"name": values.get("name")} if "name" in values else {}
    result |= {"backbone": {"kind": "convnext"}, "neck": {"kind": "fpn"}, "head": {"kind": "retina"}}
    for section, content in values.items():
        if not isinstance(content, dict):
            result.setdefault(section, content)
            continue
        for key, value in (_LATER.get(section, {}) | content).items():
            target, _, leaf = RENAMED.get(f"{section}.{key}", f"{section}.{key}").rpartition(".")
            result.setdefault(target, {})[leaf] = value
    backbone = result["backbone"]
    name = backbone.get("name")
    if isinstance(name, str) and name.startswith("timm:"):
        backbone |= {"kind": "timm", "name": name.removeprefix("timm:")}
    for key in _OF_CONVNEXT if backbone["kind"] == "timm" else _OF_TIMM:
        backbone.pop(key, None)
    return result
