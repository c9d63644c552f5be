"""Weights of every published layout under our names: key maps, and strict loading with a report."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rotanext.errors import UserError, explain

StateDict = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".safetensors", ".ckpt")

OURS, FORMAT_1 = "rotanext detector", "rotanext detector of format 1"
DETECTORS = (OURS, FORMAT_1, "mmrotate")  # layouts of whole detectors

MM_CONVNEXT: Rules = ((r"\.depthwise_conv\.", ".dwconv."), (r"\.pointwise_conv([12])\.", r".pwconv\1."))
# per layout: keys of which one must occur, then regular expressions applied in order
SIGNATURES: dict[str, tuple[str, ...]] = {
    "mmrotate": ("bbox_head.retina_cls.weight", "bbox_head.retina_reg.weight"),
    "mmpretrain": ("backbone.stages.0.0.depthwise_conv.weight", "stages.0.0.depthwise_conv.weight"),
    "convnext": ("stages.0.0.dwconv.weight",),
    "timm convnext": ("stages.0.blocks.0.conv_dw.weight",),
    "resnet": ("layer1.0.conv1.weight", "body.layer1.0.conv1.weight"),
}
RULES: dict[str, Rules] = {
    OURS: (),
    FORMAT_1: ((r"^fpn\.", "neck."), (r"^head\.(cls|reg)_tower\.", r"head.\1_convs.")),
    "mmrotate": (
        *MM_CONVNEXT,
        (r"^backbone\.(conv1|bn1|layer\d)\.", r"backbone.body.\1."),
        (r"^neck\.lateral_convs\.(\d+)\.conv\.", r"neck.lateral.\1."),
        (r"^neck\.fpn_convs\.([012])\.conv\.", r"neck.output.\1."),
        (r"^neck\.fpn_convs\.3\.conv\.", "neck.extra.0."),
        (r"^neck\.fpn_convs\.4\.conv\.", "neck.extra.1."),
        (r"^bbox_head\.(cls|reg)_convs\.(\d+)\.conv\.", r"head.\1_convs.\2."),
        (r"^bbox_head\.retina_(cls|reg)\.", r"head.\1_out."),
    ),
    "mmpretrain": ((r"^backbone\.", ""), *MM_CONVNEXT, (r"^norm3\.", "norm."), (r"^head\.fc\.", "head.")),
    "convnext": (),
    "timm convnext": (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc([12])\.", r".pwconv\1."),
        (r"\.mlp\.grn\.weight$", ".grn.gamma"),
        (r"\.mlp\.grn\.bias$", ".grn.beta"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ),
    "resnet": ((r"^(conv1|bn1|layer\d)\.", r"body.\1."),),
}


@dataclass
class LoadReport:
    """What became of every key of a checkpoint; `missing` and so on hold our names."""

    layout: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched_shapes: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.layout} layout: {len(self.matched)} tensors loaded"]
        for label in ("missing", "unexpected", "mismatched_shapes", "ignored"):
            keys = getattr(self, label)
            if keys:
                more = f", ... {len(keys) - 8} more" if len(keys) > 8 else ""
                lines.append(f"  {label.replace('_', ' ')} ({len(keys)}): {', '.join(keys[:8])}{more}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def detect_layout(keys: Mapping[str, Any], path: str | Path) -> str:
    """The name of the layout these keys are in; raises UserError for an unknown one."""
    parts = {key.partition(".")[0] for key in keys}
    if {"backbone", "head"} <= parts and parts & {"neck", "fpn"}:
        return OURS if "neck" in parts else FORMAT_1
    for layout, signature in SIGNATURES.items():
        if any(key in keys for key in signature):
            return layout
    found = f"{len(keys)} keys such as {', '.join(sorted(keys)[:3])}"
    advice = "It holds another architecture; only rotated RetinaNet, ConvNeXt and ResNet weights can be read."
    raise UserError(explain(path, found, " or ".join(SIGNATURES), advice))


def map_keys(layout: str, state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename to our names; 1x1 convolutions become linear layers, and normalisation parameters flat vectors."""
    mapped = {}
    for key, value in state_dict.items():
        for pattern, replacement in RULES[layout]:
            key = re.sub(pattern, replacement, key)
        if ".pwconv" in key and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        elif ".grn." in key:
            value = value.flatten()
        if key in mapped:
            raise UserError(f"the weights hold {key} twice, under two of its names; expected one. Save them again.")
        mapped[key] = value
    return mapped


def _as_tensor(value: Any) -> Any:
    """A NumPy array of numbers as a tensor; everything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    except TypeError:  # an array of texts, or of a type that torch lacks
        return value


def find_state_dict(content: Mapping[str, Any], path: str | Path) -> StateDict:
    """The weights in a checkpoint's content: under `state_dict` or `model`, or the content itself."""
    weights: Any = content
    for name in ("state_dict", "model"):
        if isinstance(content.get(name), dict):
            weights = content[name]
            break
    converted = {key: _as_tensor(value) for key, value in weights.items()}
    if not converted or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in converted.items()):
        found = (
            f"the keys {', '.join(key if isinstance(key, str) else type(key).__name__ for key in list(content)[:5])}"
            if content
            else "nothing"
        )
        advice = "Save the model's state dict."
        raise UserError(explain(path, found, "a state dict, alone or under 'state_dict' or 'model'", advice))
    if all(key.startswith("module.") for key in converted):  # saved from a model wrapped for several devices
        converted = {key.removeprefix("module."): value for key, value in converted.items()}
    return converted


def check_strict(
    module: nn.Module, state_dict: StateDict, path: str | Path, layout: str, may_miss: Sequence[str] = ()
) -> LoadReport:
    """Compare weights with what `module` has, which may be on the meta device; see `load_strict`."""
    own = module.state_dict()
    report = LoadReport(layout)
    for key, value in state_dict.items():
        if key not in own:
            report.unexpected.append(key)
        elif own[key].shape != value.shape:
            report.mismatched_shapes.append(f"{key} {list(value.shape)} for {list(own[key].shape)}")
        else:
            report.matched.append(key)
    missing = [key for key in own if key not in state_dict]
    allowed = [key for key in missing if key.startswith(tuple(may_miss)) or key.endswith("num_batches_tracked")]
    report.missing = [key for key in missing if key not in allowed]
    if report.missing or report.unexpected or report.mismatched_shapes:
        advice = "It is incomplete, or of another architecture or class count; choose what it was trained with."
        raise UserError(explain(path, report.text(), "exactly the model's tensors", advice))
    if allowed:
        report.notes.append(f"not in the file, left at their initial values: {', '.join(allowed)}")
    return report


def load_strict(
    module: nn.Module, state_dict: StateDict, path: str | Path, layout: str, may_miss: Sequence[str] = ()
) -> LoadReport:
    """Copy weights into `module`; all or nothing.

    `may_miss` are beginnings of keys that may stay at their initial values. Raises UserError, naming the keys and
    leaving the module as it was, when any other is missing, unexpected or of another shape.
    """
    report = check_strict(module, state_dict, path, layout, may_miss)
    module.load_state_dict({key: state_dict[key] for key in report.matched}, strict=False)
    return report
