"""Weights under the names that MMRotate gives them, and the metadata beside them."""

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

import formula
from networks import small_network
from rotanext.data.dota import CLASS_LISTS

CLASSES = ("plane", "ship")
# What tells the versions apart, and all that trainings write.
V0 = {"mmrotate_version": "0.1.0", "mmdet_version": "2.19.0"}
V1 = {"mmengine_version": "0.3.2", "dataset_meta": {"classes": CLASS_LISTS["dota1.0"]}}
V0_META = {
    "mmrotate_version": "0.1.0+", "mmdet_version": "2.19.0", "mmcv_version": "1.4.0", "CLASSES": CLASSES, "epoch": 12,
    "iter": 76800, "config": "model = dict(type='RotatedRetinaNet')\n", "seed": np.int64(3), "time": "Sun Nov 22",
    "hook_msgs": {"best_score": np.float64(0.7449)}, "env_info": "sys.platform: linux",
}  # fmt: skip
V1_META = {
    "mmengine_version": "0.3.2", "dataset_meta": {"classes": CLASSES, "palette": [(165, 42, 42), (189, 183, 107)]},
    "experiment_name": "rotated-retinanet_20221122", "epoch": 12, "iter": 76800, "cfg": "model = dict()", "seed": 3,
}  # fmt: skip


def as_mmrotate(state_dict: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """The reference's names, written out here a second time so that the map is not tested against itself."""
    pairs = [
        (".dwconv.", ".depthwise_conv."), (".pwconv", ".pointwise_conv"), ("neck.lateral.", "neck.lateral_convs."),
        ("neck.output.", "neck.fpn_convs."), ("neck.extra.0", "neck.fpn_convs.3"), ("neck.extra.1", "neck.fpn_convs.4"),
        ("head.cls_convs.", "bbox_head.cls_convs."), ("head.reg_convs.", "bbox_head.reg_convs."),
        ("head.cls_out", "bbox_head.retina_cls"), ("head.reg_out", "bbox_head.retina_reg"),
    ]  # fmt: skip
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state_dict.items():
        for ours, theirs in pairs:
            key = key.replace(ours, theirs)
        if "_convs." in key:
            stem, leaf = key.rsplit(".", 1)
            key = f"{stem}.conv.{leaf}"
        renamed[key] = value
    return renamed


def reference_weights(backbone: str, classes: int) -> dict[str, torch.Tensor]:
    """A small detector's weights under MMRotate's names, valued by name and shape as in the golden files."""
    names = as_mmrotate(small_network(backbone, classes).state_dict())
    return {name: torch.from_numpy(formula.weight(name, tuple(value.shape))) for name, value in names.items()}
