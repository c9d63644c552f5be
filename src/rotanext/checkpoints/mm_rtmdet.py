"""RTMDet of the MM toolboxes: rotated, of MMRotate 1.x, and horizontal, of MMDetection, with which a training may start.

They have the same backbone and neck, and heads of the same names; that of MMDetection has no angle.
"""

import re
from pathlib import Path
from typing import Any

import torch

from rotanext.checkpoints import mmrotate_retina
from rotanext.checkpoints.cfg_text import look_up
from rotanext.checkpoints.layout import Checkpoint, Layout, Rules, StateDict, Told, Translated, is_number, without
from rotanext.checkpoints.mmrotate import check_angles, class_names, configuration, in_rgb, infer_backbone, said_of_averages
from rotanext.config import recipe_values
from rotanext.errors import UserError, explain
from rotanext.heads.anchors import Convention

RECIPE = "rotated-rtmdet_tiny-3x-dota"  # the parts and their sizes are those of the weights
BACKBONES = {"cspnext": RECIPE, "convnext": mmrotate_retina.PUBLISHED["convnext"]}  # recipes that have the kind's section
EXPONENTIAL = {"cspnext_tiny": False, "cspnext_s": False}  # published; of all others it is true
RULES: Rules = (
    *mmrotate_retina.BACKBONE,
    (r"^bbox_head\.(cls|reg)_convs\.\d+\.(\d+)\.conv\.", r"head.\1_convs.\2."),
    (r"^bbox_head\.(cls|reg)_convs\.(\d+)\.(\d+)\.bn\.", r"head.\1_norms.\2.\3."),
    (r"^bbox_head\.rtm_(cls|reg|ang)\.", r"head.\1_out."),
)
_SHARED = re.compile(r"^(bbox_head\.(?:cls|reg)_convs)\.\d+\.(\d+\.conv\.weight)$")
TEST_CFG = {  # where values of `predict` stand in the configuration's `model.test_cfg`
    "score_threshold": ("score_thr",), "top_k": ("nms_pre",), "iou_threshold": ("nms", "iou_threshold"),
    "max_detections": ("max_per_img",),
}  # fmt: skip


def translate(checkpoint: Checkpoint) -> Translated:
    """For images in RGB; of the stacked convolutions, which files hold once a level, one. UserError where these differ."""
    kept = without(checkpoint.weights, "data_preprocessor.", "ema_")
    turned = in_rgb(checkpoint._replace(weights=shared_once(kept.weights, checkpoint.path)), "BGR")
    weights, notes = turned.weights, kept.notes + turned.notes + said_of_averages(checkpoint)
    if "backbone.norm1.weight" in weights and "backbone.norm0.weight" not in weights:
        # The toolbox has no output norm for a map that nobody uses; ours has one.
        width = _size(weights, "backbone.downsample_layers.0.0.bias")
        weights = weights | {"backbone.norm0.weight": torch.ones(width), "backbone.norm0.bias": torch.zeros(width)}
    return Translated(weights, notes)


def _size(weights: StateDict, key: str) -> int:
    """The first dimension of a tensor; 0 where there is none, or no such tensor."""
    return weights[key].shape[0] if key in weights and weights[key].ndim else 0


def shared_once(weights: StateDict, path: Any) -> StateDict:
    """The weights with one copy of each convolution that the levels share; UserError, naming the key, where two copies differ."""
    kept: dict[str, str] = {}  # the copy that stays, by the name without its level
    result: StateDict = {}
    for key, value in weights.items():
        shared = _SHARED.sub(r"\1.\2", key)
        first = kept.setdefault(shared, key)
        if first == key:
            result[key] = value
        elif value.shape != weights[first].shape or not bool((value == weights[first]).all()):
            advice = "Levels with convolutions of their own (share_conv=False) cannot be carried over."
            raise UserError(explain(path, f"{key} that differs from {first}", "one convolution for all levels", advice))
    return result


def tell(checkpoint: Checkpoint, weights: StateDict, anchors: Convention | None) -> Told:
    """The published recipe with the architecture of the weights, and what the configuration says of detecting."""
    path, cfg = checkpoint.path, configuration(checkpoint)
    refuse_anchors(path, anchors)
    values, classes = config_values(weights, path), _size(weights, "head.cls_out.0.bias")
    told = look_up(cfg, "model", "bbox_head", "num_classes")
    if isinstance(told, int) and told != classes:
        advice = "Its configuration and weights come from different runs; it cannot be used as it is."
        raise UserError(explain(path, f"a configuration for {told} classes", f"{classes}, as its head has", advice))
    values["head"]["exponential"], reason = _exponential(cfg, values["backbone"]["name"])
    kind = "exponentials of the outputs" if values["head"]["exponential"] else "the outputs themselves"
    notes = [f"distances are {kind}: {reason}", check_angles(checkpoint), *_of_detecting(cfg, values)]
    return Told(values, class_names(checkpoint), notes)


def refuse_anchors(path: Path, anchors: Convention | None) -> None:
    """UserError where anchors are asked for."""
    if anchors is not None:
        advice = "Leave out --anchors."
        raise UserError(explain(path, "a rotated RTMDet, which has no anchors", "anchors for a RetinaNet alone", advice))


def config_values(weights: StateDict, path: Any) -> dict[str, Any]:
    """The values of a published recipe, changed to the architecture that weights under our names have.

    Raises UserError for weights without neck or head, or of parts that cannot be built here.
    """
    outputs = {f"head.{part}_out.{level}.bias" for part in ("cls", "reg", "ang") for level in range(3)}
    if not {*outputs, "neck.out_convs.0.conv.weight"} <= weights.keys():
        found = "a plain FPN" if any(key.startswith("neck.lateral_convs.") for key in weights) else "no whole head or no PAFPN"
        raise UserError(explain(path, found, "a rotated RTMDet on a PAFPN", "It is incomplete, or of another architecture."))
    if (numbers := _size(weights, "head.ang_out.0.bias")) != 1:
        found = f"angles of {numbers} numbers (an angle coder)"
        raise UserError(explain(path, found, "one angle in radians", "This architecture cannot be built here."))
    kind, backbone = infer_backbone(weights, path)
    if kind not in BACKBONES:
        raise UserError(explain(path, f"the backbone {backbone}", "CSPNeXt or ConvNeXt", "This architecture cannot be built here."))
    recipe = recipe_values(RECIPE)
    blocks = {match[1] for key in weights if (match := re.match(r"neck\.top_down_blocks\.0\.blocks\.(\d+)\.", key))}
    depth = sum(re.fullmatch(r"head\.cls_convs\.\d+\.weight", key) is not None for key in weights)
    neck = {"channels": _size(weights, "neck.out_convs.0.conv.weight"), "blocks": len(blocks)}
    return recipe | {
        "name": f"rotated-rtmdet_{backbone}",
        "backbone": recipe_values(BACKBONES[kind])["backbone"] | {"name": backbone, "weights": ""},
        "neck": recipe["neck"] | neck,
        "head": recipe["head"] | {"stacked_convs": depth},
        "data": recipe["data"] | {"classes": "auto"},
        "predict": dict(recipe["predict"]),
    }


def _exponential(cfg: dict[str, Any], backbone: str) -> tuple[bool, str]:
    """Whether distances are exponentials of the outputs, and why; no shape tells."""
    told = look_up(cfg, "model", "bbox_head", "exp_on_reg")
    if isinstance(told, bool):
        return told, "from its configuration"
    return EXPONENTIAL.get(backbone, True), f"assumed, as published for {backbone}: the file holds no configuration that tells"


def _of_detecting(cfg: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Put what the configuration says of image sizes, scores and NMS in the place of the recipe's values, and say so."""
    predict: dict[str, Any] = values["predict"]
    found: dict[str, Any] = {}
    for ours, place in TEST_CFG.items():
        told = look_up(cfg, "model", "test_cfg", *place)
        if is_number(told) and told >= 0:
            found[ours] = float(told) if isinstance(predict[ours], float) else int(told)
    pipeline = cfg.get("test_pipeline") or look_up(cfg, "test_dataloader", "dataset", "pipeline")
    steps = [step for step in pipeline if isinstance(step, dict)] if isinstance(pipeline, list | tuple) else []
    scales = [step.get("scale") for step in steps if str(step.get("type")).endswith("Resize")]
    sides = [side for scale in scales if isinstance(scale, list | tuple) for side in scale if type(side) is int and side > 0]
    if sides:
        found |= {"tile": max(sides), "overlap": max(sides) * predict["overlap"] // predict["tile"]}
        values["data"]["image_size"] = max(sides)
    predict |= found
    if not found:
        return ["sizes, scores and NMS as published: the file holds no configuration that tells"]
    return ["from its configuration: " + ", ".join(f"predict.{key}={value}" for key, value in found.items())]


LAYOUT = Layout(
    "mmrotate rtmdet", "detector", (("bbox_head.rtm_cls.0.weight", "bbox_head.rtm_ang.0.weight"),), RULES, translate, tell
)
HORIZONTAL = Layout("mmdetection rtmdet", "start", (("bbox_head.rtm_cls.0.weight",),), RULES, translate)
