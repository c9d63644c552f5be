"""Rotated RTMDet of oriented-det: points in the middle of cells, a backbone of another style, and the same outputs on all levels.

Each level has a factor instead, which goes into its outputs here; the larger epsilon of the batch norms goes into their variances.
"""

import math
import re

import torch

from rotanext.checkpoints import mm_rtmdet
from rotanext.checkpoints.layout import Checkpoint, Layout, Rules, StateDict, Told, Translated
from rotanext.checkpoints.oriented_det import Settings, class_names, of_detecting, refuse_other_pixels, said_of_averages, settings
from rotanext.errors import UserError, explain
from rotanext.heads.anchors import Convention

STRIDES = [8, 16, 32]
EPSILON, OURS = 1e-3, 1e-5  # of batch norms
RULES: Rules = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.neck\.", "neck."),
    (r"^((?:backbone|neck)\..*)\.(depthwise|pointwise)\.", r"\1.\2_conv."),
    (r"^head\.(cls|reg)_convs\.(\d+)\.conv\.", r"head.\1_convs.\2."),
    (r"^head\.(cls|reg)_convs\.(\d+)\.bns\.(\d+)\.", r"head.\1_norms.\3.\2."),
)
OUTPUTS = {"rtm_cls": "cls_out", "rtm_reg": "reg_out", "rtm_angle": "ang_out"}
SHARED = tuple(f"head.{name}.{leaf}" for name in OUTPUTS for leaf in ("weight", "bias"))


def translate(checkpoint: Checkpoint) -> Translated:
    """Outputs of each level, with its factors in them, and running variances for our epsilon."""
    path, weights, found = checkpoint.path, checkpoint.weights, settings(checkpoint.path)
    refuse_other_pixels(found, path)
    if (strides := found.of("model", "fpn_strides", STRIDES)) not in (None, STRIDES):
        raise UserError(explain(path, f"levels of strides {strides}", str(STRIDES), "They cannot be had here: train again."))
    factors = {key: value for key, value in weights.items() if re.match(r"head\.(scales\.\d+|scale_angle_module)\.scale$", key)}
    if any(f"head.scales.{level}.scale" not in factors for level in range(3)) or any(f.numel() != 1 for f in factors.values()):
        raise UserError(explain(path, f"{len(factors)} factors", "one for each of three levels", "Its weights are incomplete."))
    kept = {
        key: value + (EPSILON - OURS) if key.endswith(".running_var") else value
        for key, value in weights.items()
        if key not in SHARED and key not in factors
    }
    notes = ["batch norms of epsilon 0.001: what is more than ours is in the running variances", *said_of_averages(checkpoint)]
    return Translated(kept | _outputs(weights, found), [found.note, *notes])


def _outputs(weights: StateDict, found: Settings) -> StateDict:
    """The outputs of each level: those of all levels times the level's factor, for distances in strides."""
    turn = weights.get("head.scale_angle_module.scale", torch.tensor(1.0)).reshape(())
    in_strides, exponential = bool(found.of("model", "rtmdet_norm_on_bbox", True)), _exponential(found)
    result: StateDict = {}
    for level, stride in enumerate(STRIDES):
        factor = weights[f"head.scales.{level}.scale"].reshape(())
        for leaf in ("weight", "bias"):
            sides = weights[f"head.rtm_reg.{leaf}"] * factor
            if not in_strides:  # but in pixels, where the logarithm of the stride is added to biases of exponentials
                sides = sides / stride if not exponential else sides - math.log(stride) * (leaf == "bias")
            result[f"head.cls_out.{level}.{leaf}"] = weights[f"head.rtm_cls.{leaf}"]
            result[f"head.reg_out.{level}.{leaf}"] = sides
            result[f"head.ang_out.{level}.{leaf}"] = weights[f"head.rtm_angle.{leaf}"] * turn
    return result


def _exponential(found: Settings) -> bool:
    return bool(found.of("model", "rtmdet_exp_on_reg", True))


def tell(checkpoint: Checkpoint, weights: StateDict, anchors: Convention | None) -> Told:
    """The published recipe with this architecture, and the configuration's sizes, scores and NMS."""
    mm_rtmdet.refuse_anchors(checkpoint.path, anchors)
    found = settings(checkpoint.path)
    recipe = mm_rtmdet.config_values(weights, checkpoint.path)
    values = {
        "name": f"{recipe['name']}_oriented-det",
        "backbone": recipe["backbone"] | {"style": "oriented-det"},
        "head": recipe["head"] | {"exponential": _exponential(found), "offset": 0.5},
    }
    return Told(recipe | values | of_detecting(found, recipe, top_k="rtmdet_nms_pre"), class_names(found), [])


LAYOUT = Layout("oriented-det rtmdet", "detector", (SHARED,), RULES, translate, tell)
