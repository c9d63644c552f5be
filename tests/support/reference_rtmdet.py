"""RTMDet with the reference's weights, rebuilt from names and shapes, and its figures under the reference's names."""

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import formula
import formula_rtmdet
from places import GOLDEN
from rotanext.config import Config, load_config
from rotanext.heads.contract import Targets
from rotanext.images.reading import read_image
from rotanext.inference.detector import build_network
from rotanext.models.network import Network

RECIPE = "rotated-rtmdet_tiny-3x-dota"
CLASSES = 15
STEMS = ("backbone.stem.0.conv.weight", "backbone.downsample_layers.0.0.weight")  # they see colours: the reference's in BGR
# What differs from the tiny recipe, by the name of a golden file.
OVERRIDES: dict[str, list[str]] = {
    "tiny": [],
    "tiny_real": [],
    "m": ["backbone.name=cspnext_m", "neck.channels=192", "neck.blocks=2", "head.exponential=true"],
    "convnext-tiny_pafpn": [
        "backbone.kind=convnext", "backbone.name=convnext_tiny", "backbone.drop_path=0.0", "backbone.layer_scale=1.0",
        "neck.channels=192", "head.exponential=true",
    ],
}  # fmt: skip
_RULES = (
    (r"^bbox_head\.(cls|reg)_convs\.\d\.(\d)\.conv\.", r"head.\1_convs.\2."),
    (r"^bbox_head\.(cls|reg)_convs\.(\d)\.(\d)\.bn\b", r"head.\1_norms.\2.\3"),
    (r"^bbox_head\.rtm_(cls|reg|ang)\.", r"head.\1_out."),
    (r"^(backbone\.stages\.\d\.\d)\.depthwise_conv\.", r"\1.dwconv."),
    (r"^(backbone\.stages\.\d\.\d)\.pointwise_conv([12])\.", r"\1.pwconv\2."),
)


def own_name(name: str) -> str:
    """Our name of one of the reference's parameters, buffers or modules."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def in_bgr(name: str, value: Tensor) -> Tensor:
    """A parameter, or its gradient, of ours as the reference has it."""
    return value.flip(1) if name in STEMS else value


def probe(name: str, shape: list[int]) -> Tensor:
    """The direction along which the golden files tell a parameter's gradient or change, float64."""
    numbers = np.random.RandomState(zlib.crc32(("probe" + name).encode()) & 0x7FFFFFFF).standard_normal(tuple(shape))
    return torch.from_numpy(numbers)


@dataclass(frozen=True)
class Golden:
    """A golden file's inputs and figures, the recipe, and the model with its weights."""

    name: str
    facts: dict[str, Any]
    figures: Any  # of the npz
    config: Config
    model: Network
    images: list[Tensor]  # two, uint8 RGB
    targets: Targets


def golden(name: str, shared: Path | None = None) -> Golden:
    """A golden file of a whole model; real images lie in the folder `shared`."""
    facts, figures = json.loads((GOLDEN / f"rtmdet-{name}.json").read_text()), np.load(GOLDEN / f"rtmdet-{name}.npz")
    config = load_config(RECIPE, OVERRIDES[name])
    model = build_network(config, CLASSES)
    weights = formula_rtmdet.state_dict(facts["shapes"], facts["salt"], figures["bn_running"])
    own = {own_name(key): in_bgr(key, torch.from_numpy(value)) for key, value in weights.items()}
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert unexpected == []
    assert all(key.startswith("backbone.norm0.") for key in missing)
    images = [_image(entry, shared) for entry in facts["images"]]
    boxes = [torch.from_numpy(figures[key]) for key in ("gt_boxes", "gt_boxes1")]
    labels = [torch.from_numpy(figures[key]).long() for key in ("gt_labels", "gt_labels1")]
    return Golden(name, facts, figures, config, model, images, Targets(boxes, labels))


def _image(entry: dict[str, Any], shared: Path | None) -> Tensor:
    y, x, height, width = entry["crop"]
    if entry["image"].startswith("formula:"):
        return torch.from_numpy(formula.image(int(entry["image"].removeprefix("formula:")), height, width))
    assert shared is not None
    (path,) = (shared / "data").rglob(entry["image"])
    return torch.from_numpy(np.ascontiguousarray(read_image(path)[y : y + height, x : x + width]))
