"""All layouts of weights that are known: which of them a file is in, and strict loading with a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rotanext.checkpoints import backbone_layouts, mm_rtmdet, mmrotate_retina, oriented_det_retina, oriented_det_rtmdet
from rotanext.checkpoints.layout import Checkpoint, Layout, Rules, StateDict
from rotanext.errors import UserError, explain

SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".safetensors", ".ckpt")

PLACES = ("state_dict", "model", "model_state_dict")  # of the weights in a file

OURS, FORMAT_1 = "rotanext detector", "rotanext detector of format 1"
FROM_FORMAT_1: Rules = ((r"^fpn\.", "neck."), (r"^head\.(cls|reg)_tower\.", r"head.\1_convs."))
# The first that fits a file's keys is its layout. Ours are told by their header, or by the names of their parts.
LAYOUTS: tuple[Layout, ...] = (
    Layout(OURS, "detector", ()),
    Layout(FORMAT_1, "detector", (), FROM_FORMAT_1),
    mmrotate_retina.LAYOUT,
    mm_rtmdet.LAYOUT,
    mm_rtmdet.HORIZONTAL,
    oriented_det_retina.LAYOUT,
    oriented_det_rtmdet.LAYOUT,
    *backbone_layouts.LAYOUTS,
)
BY_NAME = {layout.name: layout for layout in LAYOUTS}


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
                lines.append(f"  {label.replace('_', ' ')} ({len(keys)}): {_first(keys)}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def _first(keys: Sequence[str]) -> str:
    """The first eight of some keys, and how many more there are."""
    return ", ".join(keys[:8]) + (f", ... {len(keys) - 8} more" if len(keys) > 8 else "")


def detect_layout(keys: Mapping[str, Any], path: str | Path) -> Layout:
    """The layout these keys are in; raises UserError for an unknown one."""
    parts = {key.partition(".")[0] for key in keys}
    if {"backbone", "head"} <= parts and parts & {"neck", "fpn"}:
        return BY_NAME[OURS if "neck" in parts else FORMAT_1]
    for layout in LAYOUTS:
        if layout.fits(keys):
            return layout
    found = f"{len(keys)} keys such as {', '.join(sorted(keys)[:3])}"
    known = " or ".join(layout.name for layout in LAYOUTS if layout.signatures)
    advice = "It holds another architecture; only rotated RetinaNet and RTMDet, CSPNeXt, ConvNeXt and ResNet weights can be read."
    raise UserError(explain(path, found, known, advice))


def map_keys(layout: str, state_dict: Mapping[str, Tensor]) -> StateDict:
    """Weights in the layout of that name under ours, where nothing but the weights is known."""
    return BY_NAME[layout].apply(Checkpoint(Path("the weights"), dict(state_dict))).weights


def _as_tensor(value: Any) -> Any:
    """A NumPy array of numbers as a tensor; everything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    except TypeError:  # an array of texts, or of a type that torch lacks
        return value


def find_state_dict(content: Mapping[str, Any], path: str | Path) -> StateDict:
    """The weights in a checkpoint's content: under one of `PLACES`, or the content itself."""
    weights: Any = content
    for name in PLACES:
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
        raise UserError(explain(path, found, f"a state dict, alone or under {' or '.join(map(repr, PLACES))}", advice))
    if all(key.startswith("module.") for key in converted):  # saved from a model wrapped for several devices
        converted = {key.removeprefix("module."): value for key, value in converted.items()}
    return converted


def compare(module: nn.Module, state_dict: StateDict, layout: str) -> LoadReport:
    """What of these weights `module` has, which may be on the meta device, and what of it they lack."""
    own = module.state_dict()
    report = LoadReport(layout, missing=[key for key in own if key not in state_dict])
    for key, value in state_dict.items():
        if key not in own:
            report.unexpected.append(key)
        elif own[key].shape != value.shape:
            report.mismatched_shapes.append(f"{key} {list(value.shape)} for {list(own[key].shape)}")
        else:
            report.matched.append(key)
    return report


def check_strict(
    module: nn.Module, state_dict: StateDict, path: str | Path, layout: str, may_miss: Sequence[str] = ()
) -> LoadReport:
    """Compare weights with what `module` has, which may be on the meta device; see `load_strict`."""
    report = compare(module, state_dict, layout)
    allowed = [key for key in report.missing if key.startswith(tuple(may_miss)) or key.endswith("num_batches_tracked")]
    report.missing = [key for key in report.missing if key not in allowed]
    if report.missing or report.unexpected or report.mismatched_shapes:
        advice = "It is incomplete, or of another architecture or class count; choose what it was trained with."
        raise UserError(explain(path, report.text(), "exactly the model's tensors", advice))
    if allowed:
        report.notes.append(f"not in the file, left at their initial values: {_first(allowed)}")
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
