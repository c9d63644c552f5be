"""Files of weights, each read and checked once: whole detectors of any known layout, or backbones, or starts of trainings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rotanext.checkpoints.layout import Checkpoint, warn_of_anchors
from rotanext.checkpoints.layouts import (
    BY_NAME,
    FORMAT_1,
    OURS,
    LoadReport,
    StateDict,
    check_strict,
    detect_layout,
    find_state_dict,
)
from rotanext.checkpoints.own import read_header
from rotanext.checkpoints.tensor_files import read_checkpoint
from rotanext.config import Config, validate, validate_saved
from rotanext.errors import UserError, explain
from rotanext.heads.anchors import Convention
from rotanext.inference.detector import build_network
from rotanext.models.network import Network

STATE = ("optimizer", "param_schedulers", "message_hub", "optimizer_state_dict", "scheduler_state_dict")  # of trainings


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
class PartsFile:
    """Weights under our names that are no whole detector of rotated boxes."""

    layout: str
    weights: StateDict
    notes: list[str]
    whole: bool  # a backbone, neck and head to start a training with; otherwise a backbone alone, a classifier's head included


def read_weights(path: str | Path, anchors: Convention | None = None) -> DetectorFile | PartsFile:
    """Read a detector of any layout of `layouts.LAYOUTS` or of our own format, or weights of parts, under our names.

    `anchors` overrides the convention that the file tells. Raises UserError for a file of any other kind, that is damaged,
    contradicts itself or does not tell its anchors.
    """
    path = Path(path)
    content, header = read_checkpoint(path)
    if {"progress", "optimizer"} <= content.keys():
        advice = "Use last.safetensors or best.safetensors of its run; a training goes on with: rotanext train --resume RUN"
        raise UserError(explain(path, "the state of a training", "a detector, or a backbone's weights", advice))
    weights = find_state_dict(content, path)
    if "rotanext" in header:
        return _finite(_own(header, weights, path, anchors), path)
    layout = detect_layout(weights, path)
    if layout.name in (OURS, FORMAT_1):
        read_header(header, path)  # which says what is wrong: there is none
    checkpoint = Checkpoint(path, weights, content)
    ours, notes = layout.apply(checkpoint)
    if layout.tell is None:
        return PartsFile(layout.name, ours, notes, layout.holds == "start")
    told = layout.tell(checkpoint, ours, anchors)
    config = validate(told.values, str(path))
    file = DetectorFile(layout.name, ours, config, told.class_names, 0, [*notes, *told.notes, *_left(content)])
    return _finite(_checked(file, path), path)


def _left(content: dict[str, Any]) -> list[str]:
    """What to say of a training's state beside the weights, which detecting does not need."""
    kept = [key for key in content if isinstance(key, str) and key in STATE]
    return [f"not needed for detecting: {', '.join(kept)}"] if kept else []


def _finite(file: DetectorFile, path: Path) -> DetectorFile:
    """The file; UserError where its weights are not all numbers."""
    broken = sum(value.is_floating_point() and not bool(value.isfinite().all()) for value in file.weights.values())
    if broken:
        advice = "The training it comes from diverged; use an earlier checkpoint."
        raise UserError(explain(path, f"{broken} tensors with NaN or infinity", "finite weights", advice))
    return file


def read_detector_file(path: str | Path, anchors: Convention | None = None) -> DetectorFile:
    """`read_weights` of a whole detector; UserError for a file of parts."""
    file = read_weights(path, anchors)
    if isinstance(file, PartsFile):
        found = f"a detector without rotated boxes ({file.layout})" if file.whole else f"backbone weights ({file.layout})"
        advice = "Give it as pretrained weights, or give a detector's checkpoint."
        raise UserError(explain(path, found, "a whole detector", advice))
    return file


def _own(header: dict[str, str], weights: StateDict, path: Path, anchors: Convention | None) -> DetectorFile:
    """A file in our own format."""
    stated = read_header(header, path)
    layout = FORMAT_1 if stated["format"] == 1 else OURS
    origin = f"{path} (configuration)"
    told = {"head.anchors": stated["anchors"]} if stated["format"] == 1 and "anchors" in stated else {}
    config = validate_saved(stated["config"], origin, told)
    if anchors is not None:
        if (own := config.model_dump()["head"].get("anchors", anchors)) != anchors:
            warn_of_anchors(path, anchors, own, "its configuration")
        config = validate_saved(stated["config"], origin, {"head.anchors": anchors})
    weights = BY_NAME[layout].apply(Checkpoint(path, weights)).weights
    return _checked(DetectorFile(layout, weights, config, tuple(stated["class_names"]), 0), path)


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
