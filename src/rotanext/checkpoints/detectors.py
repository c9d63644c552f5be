"""Files of weights, each read and checked once: whole detectors of any known layout, or backbones."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rotanext.checkpoints import mmrotate
from rotanext.checkpoints.layouts import (
    DETECTORS,
    FORMAT_1,
    OURS,
    LoadReport,
    StateDict,
    check_strict,
    detect_layout,
    find_state_dict,
    map_keys,
)  # fmt: skip
from rotanext.checkpoints.own import read_header
from rotanext.checkpoints.tensor_files import read_checkpoint
from rotanext.config import Config, validate, validate_saved
from rotanext.errors import UserError, explain
from rotanext.heads.anchors import Convention
from rotanext.inference.detector import build_network
from rotanext.models.network import Network


@dataclass
class DetectorFile:
    """A detector's checkpoint under our names, with what its file says about it."""

    layout: str
    weights: StateDict
    config: Config
    class_names: tuple[str, ...] | None  # None: the file does not tell
    num_classes: int
    notes: list[str] = field(default_factory=list)


@dataclass
class BackboneFile:
    """A backbone's weights under our names, a classifier's included."""

    layout: str
    weights: StateDict


def read_weights(path: str | Path, anchors: Convention | None = None) -> DetectorFile | BackboneFile:
    """Read a detector of MMRotate 0.x or 1.x or of our own format, or a backbone of any known layout, under our names.

    `anchors` overrides the convention that the file tells. Raises UserError for a file of any other kind, that is damaged,
    contradicts itself or does not tell its anchors.
    """
    path = Path(path)
    content, header = read_checkpoint(path)
    if {"progress", "optimizer"} <= content.keys():
        advice = "Use last.safetensors or best.safetensors of its run; a training goes on with: rotanext train --resume RUN"
        raise UserError(explain(path, "the state of a training", "a detector, or a backbone's weights", advice))
    weights = find_state_dict(content, path)
    layout = OURS if "rotanext" in header else detect_layout(weights, path)
    if layout not in DETECTORS:
        return BackboneFile(layout, map_keys(layout, weights))
    file = _of_mmrotate(content, weights, path, anchors) if layout == "mmrotate" else _own(header, weights, path, anchors)
    broken = sum(value.is_floating_point() and not bool(value.isfinite().all()) for value in file.weights.values())
    if broken:
        advice = "The training it comes from diverged; use an earlier checkpoint."
        raise UserError(explain(path, f"{broken} tensors with NaN or infinity", "finite weights", advice))
    return file


def read_detector_file(path: str | Path, anchors: Convention | None = None) -> DetectorFile:
    """`read_weights` of a whole detector; UserError for a backbone's file."""
    file = read_weights(path, anchors)
    if isinstance(file, BackboneFile):
        advice = "Give it as pretrained weights, or give a detector's checkpoint."
        raise UserError(explain(path, f"backbone weights ({file.layout})", "a whole detector", advice))
    return file


def _own(header: dict[str, str], weights: StateDict, path: Path, anchors: Convention | None) -> DetectorFile:
    """A file in our own format."""
    stated = read_header(header, path)
    layout = FORMAT_1 if stated["format"] == 1 else OURS
    convention = anchors or (stated.get("anchors") if stated["format"] == 1 else None)
    chosen = {} if convention is None else {"head.anchors": convention}
    config = validate_saved(stated["config"], f"{path} (configuration)", chosen)
    weights = map_keys(layout, weights)
    return _checked(DetectorFile(layout, weights, config, tuple(stated["class_names"]), 0), path)


def _of_mmrotate(content: dict[str, Any], weights: StateDict, path: Path, anchors: Convention | None) -> DetectorFile:
    """A checkpoint of MMRotate: the published recipe with the architecture that its weights have."""
    ignored = [key for key in weights if key.startswith(("data_preprocessor.", "ema_"))]
    notes = [f"ignored: {', '.join(ignored[:4])}{' ...' * (len(ignored) > 4)}"] if ignored else []
    weights = map_keys("mmrotate", {key: value for key, value in weights.items() if key not in ignored})
    convention, reason = mmrotate.anchor_convention(content, path, anchors)
    notes += [f"anchors {convention}: {reason}", mmrotate.check_angles(content, path)]
    config = validate(mmrotate.config_values(weights, convention, path), str(path))
    return _checked(DetectorFile("mmrotate", weights, config, mmrotate.class_names(content), 0, notes), path)


def _checked(file: DetectorFile, path: Path) -> DetectorFile:
    """The file with the number of classes that its head has, which its names must have, too."""
    file.num_classes = file.config.head.classes_of(file.weights)
    if file.class_names is not None and len(file.class_names) != file.num_classes:
        advice = "Its metadata and weights come from different runs; it cannot be used as it is."
        raise UserError(explain(path, f"{len(file.class_names)} class names", f"{file.num_classes}, as its head has", advice))
    return file


def filled_network(config: Config, num_classes: int, weights: StateDict, path: Path, layout: str) -> tuple[Network, LoadReport]:
    """The network a configuration describes with these weights, all of them and no others; UserError where they do not fit."""
    with torch.device("meta"):  # shapes alone, without memory: a file may claim a network of any size
        report = check_strict(build_network(config, num_classes), weights, path, layout)
    network = build_network(config, num_classes)
    network.load_state_dict({key: weights[key] for key in report.matched}, strict=False)
    return network, report
