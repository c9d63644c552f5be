"""Files as oriented-det 0.4.1 leaves them, of our networks' shapes; its names by hand: rules are not tested with themselves."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from networks import small_network
from rotanext.config import load_config
from rotanext.inference.detector import build_network

CLASSES = ("plane", "ship", "harbor")
OF_RTMDET = (("depthwise_conv", "depthwise"), ("pointwise_conv", "pointwise"))


def rtmdet(size: str = "cspnext_tiny", channels: int = 96) -> dict[str, Tensor]:
    """The state dict of one: a stem, stages and neck within `backbone`, one output for all levels, a factor for each."""
    torch.manual_seed(0)
    parts, found = (f"backbone.name={size}", f"neck.channels={channels}"), {}
    for key, value in build_network(load_config("rotated-rtmdet_tiny-3x-dota", parts), len(CLASSES)).state_dict().items():
        for ours, theirs in OF_RTMDET:
            key = key.replace(ours, theirs)
        key = re.sub(r"^(backbone)\.", r"backbone.body.", key)
        key = re.sub(r"^neck\.", "backbone.neck.", key)
        key = re.sub(r"^head\.(cls|reg)_convs\.(\d)\.", r"head.\1_convs.\2.conv.", key)
        key = re.sub(r"^head\.(cls|reg)_norms\.(\d)\.(\d)\.", r"head.\1_convs.\3.bns.\2.", key)
        key = re.sub(r"^head\.(cls|reg)_out\.0\.", r"head.rtm_\1.", key)
        key = re.sub(r"^head\.ang_out\.0\.", "head.rtm_angle.", key)
        if "_out." not in key:
            found[key] = torch.randn_like(value) if value.is_floating_point() else value
    return found | {f"head.scales.{level}.scale": torch.tensor(1.0 + level) for level in range(3)} | {
        "head.scale_angle_module.scale": torch.tensor(0.5)
    }  # fmt: skip


def retina(anchors: int = 9) -> dict[str, Tensor]:
    """The state dict of one on ResNet-18, with frozen batch norms as torchvision has them."""
    torch.manual_seed(0)
    found = {}
    for key, value in small_network("timm:resnet18", len(CLASSES), channels=8).state_dict().items():
        key = re.sub(r"^neck\.lateral\.(\d)\.", r"backbone.fpn.inner_blocks.\1.0.", key)
        key = re.sub(r"^neck\.output\.(\d)\.", r"backbone.fpn.layer_blocks.\1.0.", key)
        key = key.replace("neck.extra.0.", "backbone.fpn.extra_blocks.p6.").replace(
            "neck.extra.1.", "backbone.fpn.extra_blocks.p7."
        )
        if key.startswith("head.") and "_out." in key:
            continue
        if not key.endswith("num_batches_tracked"):
            found[key] = torch.randn_like(value)
    outputs = {"conv_cls": len(CLASSES), "conv_bbox": 5}
    for name, numbers in outputs.items():
        found |= {
            f"head.{name}.weight": torch.randn(anchors * numbers, 8, 3, 3),
            f"head.{name}.bias": torch.randn(anchors * numbers),
        }
    return found


def write(folder: Path, state: dict[str, Tensor], config: Any = None, averages: bool = False, legacy: bool = False) -> Path:
    """An epoch's checkpoint in the folder of a run, with its configuration unless that is None."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    content = {
        "model_state_dict": state, "epoch": 3, "metrics": {"mAP": 0.5}, "optimizer_state_dict": {"state": {}, "param_groups": []},
    } | ({"ema_state_dict": {"step": 9, "shadow": {"a": torch.zeros(1)}}} if averages else {})  # fmt: skip
    path = folder / "checkpoints/checkpoint_epoch_0003.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps({"model_type": "x", "class_names": list(CLASSES)} | config)
        (folder / "config.json").write_text(text)
    return path
