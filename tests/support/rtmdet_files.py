"""RTMDet's weights under the names that MMRotate 1.x and MMDetection 3.x give them, and files as they write them."""

import functools
import json
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import formula_rtmdet
from places import GOLDEN
from rotanext.data.dota import CLASS_LISTS

RECIPE = "rotated-rtmdet_tiny-3x-dota"
SIZES = ("tiny", "s", "m", "l")
CFG = """angle_version = 'le90'
base_lr = 0.00025
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork'))
model = dict(
    backbone=dict(arch='P5', type='mmdet.CSPNeXt', widen_factor=0.375),
    bbox_head=dict(
        angle_version='le90',
        bbox_coder=dict(angle_version='le90', type='DistanceAnglePointCoder'),
        exp_on_reg=False,
        num_classes=15,
        type='RotatedRTMDetSepBNHead'),
    data_preprocessor=dict(
        bgr_to_rgb=False,
        mean=[
            103.53,
            116.28,
            123.675,
        ],
        std=[
            57.375,
            57.12,
            58.395,
        ],
        type='mmdet.DetDataPreprocessor'),
    test_cfg=dict(
        max_per_img=1500, min_bbox_size=0, nms=dict(iou_threshold=0.1, type='nms_rotated'), nms_pre=1000, score_thr=0.05),
    type='mmdet.RTMDet')
test_pipeline = [
    dict(file_client_args=dict(backend='disk'), type='mmdet.LoadImageFromFile'),
    dict(keep_ratio=True, scale=(
        1024,
        1024,
    ), type='mmdet.Resize'),
]
"""
META = {
    "epoch": 36, "iter": 57600, "cfg": CFG, "seed": 3, "experiment_name": "rotated_rtmdet_tiny-3x-dota_20230103",
    "time": "20230103_120000", "mmengine_version": "0.3.2",
    "dataset_meta": {"classes": CLASS_LISTS["dota1.0"], "palette": [(165, 42, 42)]},
}  # fmt: skip


@functools.cache
def shapes(which: str) -> dict[str, list[int]]:
    """Names and shapes of the reference's state dict of a size, or of `convnext-tiny_pafpn` and `convnext-tiny_fpn`."""
    found: dict[str, list[int]] = json.loads((GOLDEN / "rtmdet-layouts.json").read_text())["shapes"][which]
    return found


@functools.cache
def _numbers(which: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in formula_rtmdet.state_dict(shapes(which)).items()}


def weights(which: str) -> "OrderedDict[str, Tensor]":
    """The formula's weights under the reference's names."""
    return OrderedDict(_numbers(which))


def golden_weights(name: str) -> "OrderedDict[str, Tensor]":
    """Those of a golden file of a whole model, whose running statistics make it lively."""
    facts, figures = json.loads((GOLDEN / f"rtmdet-{name}.json").read_text()), np.load(GOLDEN / f"rtmdet-{name}.npz")
    found = formula_rtmdet.state_dict(facts["shapes"], facts["salt"], figures["bn_running"])
    return OrderedDict((key, torch.from_numpy(value)) for key, value in found.items())


def coco(which: str) -> dict[str, Tensor]:
    """A horizontal detector's weights: no angle, eighty classes."""
    state = {key: value for key, value in weights(which).items() if "rtm_ang" not in key}
    channels = state["bbox_head.rtm_cls.0.weight"].shape[1]
    for level in range(3):
        state[f"bbox_head.rtm_cls.{level}.weight"] = torch.ones(80, channels, 1, 1)
        state[f"bbox_head.rtm_cls.{level}.bias"] = torch.ones(80)
    return state


def our_name(key: str) -> str:
    """Ours for one of the reference's names, by hand: a second time, so that the rules are not tested against themselves."""
    parts = key.split(".")
    if parts[0] == "bbox_head":
        branch, level, rest = parts[1], parts[2], parts[3:]
        if branch.endswith("_convs"):
            place, kind, leaf = rest
            own = branch if kind == "conv" else f"{branch.removesuffix('_convs')}_norms.{level}"
            return f"head.{own}.{place}.{leaf}"
        return f"head.{branch.removeprefix('rtm_')}_out.{level}.{rest[0]}"
    if "stages" in key:
        return key.replace("depthwise_conv", "dwconv").replace("pointwise_conv", "pwconv")
    return key


def as_mmrotate(state_dict: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """The reference's names for those of one of our networks on CSPNeXt, shared convolutions once for each level."""
    found: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state_dict.items():
        if match := re.match(r"head\.(cls|reg)_convs\.(\d)\.(.*)", key):
            found |= {f"bbox_head.{match[1]}_convs.{level}.{match[2]}.conv.{match[3]}": value for level in range(3)}
            continue
        key = re.sub(r"^head\.(cls|reg)_norms\.(\d)\.(\d)\.", r"bbox_head.\1_convs.\2.\3.bn.", key)
        key = re.sub(r"^head\.(cls|reg|ang)_out\.", r"bbox_head.rtm_\1.", key)
        found[key] = value.flip(1) if key == "backbone.stem.0.conv.weight" else value
    return found


_METHODS = ("min", "max", "current", "mean")


@contextmanager
def mmengine() -> Iterator[type]:
    """A class that pickles as MMEngine's HistoryBuffer, whose module exists only within: its state holds methods of its class."""
    name = "mmengine.logging.history_buffer"

    def state(self: Any) -> dict[str, Any]:
        return self.__dict__ | {"statistics_methods": {word: getattr(type(self), word) for word in _METHODS}}

    members: dict[str, Any] = {"__module__": name, "__getstate__": state}
    for word in _METHODS:
        members[word] = types.FunctionType((lambda self: None).__code__, {}, word)
        members[word].__module__, members[word].__qualname__ = name, f"HistoryBuffer.{word}"
    cls = type("HistoryBuffer", (), members)
    module = types.ModuleType(name)
    module.HistoryBuffer = cls  # type: ignore[attr-defined]
    parts = ("mmengine", "mmengine.logging", name)
    sys.modules.update(dict.fromkeys(parts, module))
    try:
        yield cls
    finally:
        for part in parts:
            sys.modules.pop(part, None)


def write(path: Path, state_dict: dict[str, Tensor], meta: dict[str, Any] | None = None, legacy: bool = False) -> Path:
    """A training's checkpoint of MMRotate 1.x, with a message hub and the weights before averaging; `legacy`: before torch 1.6."""
    raw = {f"module.{key}": torch.zeros_like(value) for key, value in state_dict.items()}
    with mmengine() as cls:
        buffer = cls()
        buffer._log_history, buffer._count_history, buffer.max_length = np.array([1.5, 1.25]), np.array([1, 1]), 1_000_000
        content = {
            "meta": META if meta is None else meta,
            "state_dict": state_dict,
            "message_hub": {"log_scalars": OrderedDict({"train/loss": buffer}), "runtime_info": OrderedDict(iter=5)},
            "optimizer": {"state": {}, "param_groups": [{"lr": 2.5e-4, "params": [0]}]},
            "param_schedulers": [{"last_step": 1}, {"last_step": 2}],
            "ema_state_dict": raw | {"steps": torch.tensor(57600)},
        }
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
