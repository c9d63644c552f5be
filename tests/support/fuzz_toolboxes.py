"""Hostile and broken detectors: RTMDet of MMRotate, and both families of oriented-det, with what lies beside them."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from torch import Tensor

import fuzz_checkpoints as checkpoints
import oriented_det_files
import rtmdet_files
from fuzz_inputs import change_value, mutate_text
from rotanext.checkpoints.cfg_text import parse_cfg
from rotanext.config import load_config
from rotanext.inference.detector import build_network
from rotanext.models.cspnext import VARIANTS, Variant
from rotanext.models.network import Network

TINY = "cspnext_fuzz"
VARIANTS.setdefault(TINY, Variant(0.1, 1 / 16))  # small enough for a thousand loads a minute
CLASSES = ("plane", "ship")


@cache
def tiny_rtmdet() -> Network:
    """A detector of 90,000 weights."""
    return build_network(load_config(rtmdet_files.RECIPE, [f"backbone.name={TINY}", "neck.channels=8"]), len(CLASSES)).eval()


def _content() -> dict[str, Any]:
    cfg = rtmdet_files.CFG.replace("num_classes=15", f"num_classes={len(CLASSES)}")
    meta = rtmdet_files.META | {"cfg": cfg, "dataset_meta": {"classes": list(CLASSES)}}
    return {"meta": meta, "state_dict": rtmdet_files.as_mmrotate(tiny_rtmdet().state_dict())}


@cache
def rtmdet_seeds() -> tuple[bytes, ...]:
    """Whole files as zip and as they were before torch 1.6."""
    return tuple(checkpoints.saved(_content(), legacy) for legacy in (False, True))


def _changed(rng: Random, content: dict[str, Any], place: str) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 5))):
        if rng.random() < 0.6:
            checkpoints.change_weights(rng, content[place])
        else:
            rest = change_value(rng, {key: value for key, value in content.items() if key != place})
            content = (rest if isinstance(rest, dict) else {}) | {place: content[place]}
    return checkpoints.saved(content, legacy=rng.random() < 0.3)


def mutate_rtmdet(rng: Random, seeds: Any) -> bytes:
    """A file whose weights, metadata or configuration's text are other ones."""
    content = _content()
    if rng.random() < 0.3:
        text = mutate_text(rng, [content["meta"]["cfg"].encode()]).decode("latin-1")
        content["meta"] = content["meta"] | {"cfg": text}
        return checkpoints.saved(content)
    return _changed(rng, content, "state_dict")


def read_cfg(path: Path) -> object:
    """Any text is a configuration, of nothing at worst."""
    values = parse_cfg(path.read_bytes().decode("latin-1"))
    assert all(isinstance(key, str) for key in values)
    return list(values)[:5]


CFGS = (rtmdet_files.CFG.encode(), b"a = dict({'x-y': 1, 2: [-1, (True, None)]}, z='\\d')\n")


@cache
def _states() -> tuple[dict[str, Tensor], ...]:
    return oriented_det_files.rtmdet(TINY, 8), oriented_det_files.retina()


@cache
def oriented_det_seeds() -> tuple[bytes, ...]:
    """Whole files."""
    return tuple(checkpoints.saved({"model_state_dict": state, "epoch": 1}) for state in _states())


def mutate_oriented_det(rng: Random, seeds: Any) -> bytes:
    """A file whose weights are other ones; mostly of RTMDet, which is smaller."""
    state = _states()[rng.random() < 0.2]
    return _changed(rng, {"model_state_dict": dict(state), "epoch": 1}, "model_state_dict")


MODEL = {
    "anchor_ratios": [0.5, 1.0, 2.0], "anchor_octave_base_scale": 4, "anchor_scales_per_octave": 3, "anchor_scales": [8],
    "anchor_angles": [0], "target_means": [0.0] * 5, "target_stds": [1.0] * 5, "roi_norm_factor": 2.0, "fpn_strides": [8, 16, 32],
    "rtmdet_norm_on_bbox": False, "rtmdet_exp_on_reg": True, "max_detections_per_image": 9, "final_nms_iou_threshold": 0.1,
}  # fmt: skip
BESIDE = tuple(
    json.dumps({"model_type": family, "model": MODEL | other, "class_names": list(oriented_det_files.CLASSES)}
               | {"preprocessing": {"target_size": [512, 512], "normalize_mean": [0.485, 0.456, 0.406]}}).encode()
    for family, other in (("rotated_rtmdet", {}), ("rotated_retinanet", {"fpn_strides": [8, 16, 32, 64, 128]}))
)  # fmt: skip


def beside(path: Path) -> Path:
    """A whole checkpoint beside the configuration at `path`, which tells of which family it is."""
    of_retina = b"retina" in path.read_bytes()[:200]
    weights = path.with_suffix(".pth")
    weights.write_bytes(oriented_det_seeds()[of_retina])
    return weights
