"""Rotated RetinaNet of MMRotate 0.x and 1.x: their names, and which of the two kinds of anchors a file means."""

import re
from typing import Any

from rotanext.checkpoints.layout import Checkpoint, Layout, Rules, StateDict, Told, Translated, warn_of_anchors, without
from rotanext.checkpoints.mmrotate import check_angles, class_names, in_rgb, infer_backbone, said_of_averages
from rotanext.config import recipe_values
from rotanext.errors import UserError, explain
from rotanext.heads.anchors import Convention

PUBLISHED = {  # recipes, by the kind of backbone
    "convnext": "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota",
    "timm": "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota",
}
BACKBONE: Rules = (
    (r"^backbone\.stages\.(.*)\.depthwise_conv\.", r"backbone.stages.\1.dwconv."),
    (r"^backbone\.stages\.(.*)\.pointwise_conv([12])\.", r"backbone.stages.\1.pwconv\2."),
    (r"^backbone\.(conv1|bn1|layer\d)\.", r"backbone.body.\1."),
)
RULES: Rules = (
    *BACKBONE,
    (r"^neck\.lateral_convs\.(\d+)\.conv\.", r"neck.lateral.\1."),
    (r"^neck\.fpn_convs\.([012])\.conv\.", r"neck.output.\1."),
    (r"^neck\.fpn_convs\.3\.conv\.", "neck.extra.0."),
    (r"^neck\.fpn_convs\.4\.conv\.", "neck.extra.1."),
    (r"^bbox_head\.(cls|reg)_convs\.(\d+)\.conv\.", r"head.\1_convs.\2."),
    (r"^bbox_head\.retina_(cls|reg)\.", r"head.\1_out."),
)


def translate(checkpoint: Checkpoint) -> Translated:
    """For images in RGB, without what the model does not consist of: means, and what 0.x keeps of averages beside the weights."""
    kept = without(checkpoint.weights, "data_preprocessor.", "ema_")
    turned = in_rgb(checkpoint._replace(weights=kept.weights), "RGB")
    return Translated(turned.weights, kept.notes + turned.notes + said_of_averages(checkpoint))


def tell(checkpoint: Checkpoint, weights: StateDict, anchors: Convention | None) -> Told:
    """The published recipe with the architecture that the weights have; UserError where anchors or angles are not known."""
    convention, reason = anchor_convention(checkpoint, anchors)
    notes = [f"anchors {convention}: {reason}", check_angles(checkpoint)]
    return Told(config_values(weights, convention, checkpoint.path), class_names(checkpoint), notes)


def config_values(weights: StateDict, anchors: Convention, path: Any) -> dict[str, Any]:
    """The values of a published recipe, changed to the architecture that weights under our names have.

    Raises UserError for weights without a head or a pyramid, or of a backbone that cannot be built here.
    """
    kernels = ("head.cls_out.weight", "head.reg_out.weight", "neck.output.0.weight")
    if any(key not in weights or weights[key].dim() != 4 for key in kernels):
        raise UserError(explain(path, "no head or no FPN", "a rotated RetinaNet", "Its weights are incomplete."))
    kind, backbone = infer_backbone(weights, path)
    if kind not in PUBLISHED:
        raise UserError(explain(path, f"the backbone {backbone}", "ConvNeXt or ResNet", "This architecture cannot be built here."))
    recipe = recipe_values(PUBLISHED[kind])
    depth = sum(re.fullmatch(r"head\.cls_convs\.\d+\.weight", key) is not None for key in weights)
    return recipe | {
        "backbone": recipe["backbone"] | {"name": backbone, "weights": ""},
        "data": recipe["data"] | {"classes": "auto"},
        "neck": recipe["neck"] | {"channels": weights["neck.output.0.weight"].shape[0]},
        "head": recipe["head"] | {"stacked_convs": depth, "anchors": anchors},
    }


def anchor_convention(checkpoint: Checkpoint, override: Convention | None = None) -> tuple[Convention, str]:
    """Which anchors an MMRotate checkpoint was trained with, and why: `v0` never regularised, `v1` regularised to le90.

    Its `meta` and the presence of `message_hub` tell. `override` wins, with a warning where it contradicts them. Raises UserError
    when the signs are absent or contradict each other.
    """
    signs = _signs(checkpoint)
    told: list[Convention] = [convention for convention, found in signs.items() if found]
    if override is not None:
        if len(told) == 1 and told[0] != override:
            warn_of_anchors(checkpoint.path, override, told[0], ", ".join(signs[told[0]]))
        return override, "as asked"
    if len(told) != 1:
        both = ", ".join(signs["v0"] + signs["v1"])
        found = f"signs of both ({both})" if both else "no version in its metadata"
        advice = "Say which with anchors v0 (MMRotate 0.x, all published rows) or v1 (MMRotate 1.x)."
        raise UserError(explain(checkpoint.path, found, "the version of MMRotate that trained it", advice))
    return told[0], ", ".join(signs[told[0]])


def _signs(checkpoint: Checkpoint) -> dict[Convention, list[str]]:
    """What in a checkpoint speaks for MMRotate 0.x, and what for 1.x."""
    meta = checkpoint.meta
    found_versions = {name: meta.get(f"{name}_version") for name in ("mmrotate", "mmdet", "mmcv", "mmengine")}
    versions = {name: value if isinstance(value, str) else "" for name, value in found_versions.items()}
    signs: dict[Convention, list[str]] = {"v0": [], "v1": []}
    for name, first_of_v0, first_of_v1 in (("mmrotate", "0.", "1."), ("mmdet", "2.", "3."), ("mmcv", "1.", "2.")):
        if versions[name].startswith(first_of_v0):
            signs["v0"].append(f"{name} {versions[name]}")
        elif versions[name].startswith(first_of_v1):
            signs["v1"].append(f"{name} {versions[name]}")
    if versions["mmengine"]:
        signs["v1"].append(f"mmengine {versions['mmengine']}")
    signs["v0"] += ["class names under CLASSES"] if "CLASSES" in meta else []
    signs["v1"] += [f"the entry {name}" for name in ("dataset_meta", "experiment_name") if name in meta]
    signs["v1"] += ["a message hub"] if "message_hub" in checkpoint.content else []
    return signs


LAYOUT = Layout(
    "mmrotate retinanet", "detector", (("bbox_head.retina_cls.weight",), ("bbox_head.retina_reg.weight",)), RULES, translate, tell
)
