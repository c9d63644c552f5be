"""What checkpoints of MMRotate 0.x and 1.x tell of their detectors: architecture, anchors, angles, class names.

Their configurations are programs, so nothing is taken from them but what stands in texts, shapes and versions.
"""

import re
from collections.abc import Mapping
from typing import Any

from rotanext.checkpoints.layouts import StateDict
from rotanext.checkpoints.unpickle import Placeholder
from rotanext.config import recipe_values
from rotanext.errors import UserError, explain
from rotanext.heads.anchors import Convention
from rotanext.models.convnext import VARIANTS

PUBLISHED = {  # recipes of rotated RetinaNet, by the kind of backbone
    "convnext": "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota",
    "timm": "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota",
}
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # blocks of the four stages, with bottleneck or without
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


def config_values(weights: StateDict, anchors: Convention, path: Any) -> dict[str, Any]:
    """The values of a published recipe, changed to the architecture that weights under our names have.

    Raises UserError for weights without a head or a pyramid, or of a backbone that cannot be built here.
    """
    if not {"head.cls_out.weight", "head.reg_out.weight", "neck.output.0.weight"} <= weights.keys():
        raise UserError(explain(path, "no head or no FPN", "a rotated RetinaNet", "Its weights are incomplete."))
    kind, backbone = infer_backbone(weights, path)
    recipe = recipe_values(PUBLISHED[kind])
    depth = sum(re.fullmatch(r"head\.cls_convs\.\d+\.weight", key) is not None for key in weights)
    return recipe | {
        "backbone": recipe["backbone"] | {"name": backbone, "weights": ""},
        "data": recipe["data"] | {"classes": "auto"},
        "neck": recipe["neck"] | {"channels": weights["neck.output.0.weight"].shape[0]},
        "head": recipe["head"] | {"stacked_convs": depth, "anchors": anchors},
    }


def _mapping(value: Any) -> dict[Any, Any]:
    """A dict, or the entries of an object that was a dict in the toolbox that wrote it."""
    if isinstance(value, Placeholder):
        value = value.mapping
    return value if isinstance(value, dict) else {}


def anchor_convention(content: Mapping[str, Any], path: Any, override: Convention | None = None) -> tuple[Convention, str]:
    """Which anchors an MMRotate checkpoint was trained with, and why: `v0` never regularised, `v1` regularised to le90.

    `content` is the whole checkpoint, of which `meta` and the presence of `message_hub` tell. `override` wins. Raises
    UserError when the signs are absent or contradict each other.
    """
    if override is not None:
        return override, "as asked"
    meta = _mapping(content.get("meta"))
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
    signs["v1"] += ["a message hub"] if "message_hub" in content else []
    if bool(signs["v0"]) == bool(signs["v1"]):
        both = ", ".join(signs["v0"] + signs["v1"])
        found = f"signs of both ({both})" if both else "no version in its metadata"
        advice = "Say which with anchors v0 (MMRotate 0.x, all published rows) or v1 (MMRotate 1.x)."
        raise UserError(explain(path, found, "the version of MMRotate that trained it", advice))
    chosen: Convention = "v0" if signs["v0"] else "v1"
    return chosen, ", ".join(signs[chosen])


def check_angles(content: Mapping[str, Any], path: Any) -> str:
    """Say that the training configuration in the metadata is for le90 boxes, or that there is none; UserError for others.

    Detectors for the conventions "oc" and "le135" have the same tensors, and would silently give wrong boxes.
    """
    meta = _mapping(content.get("meta"))
    texts = [text for text in (meta.get("config"), meta.get("cfg")) if isinstance(text, str)]
    found = set(re.findall(r"""angle_(?:version|range)['"]?\s*[=:]\s*['"](\w+)['"]""", "\n".join(texts)))
    if found - {"le90"}:
        advice = "Its boxes mean something else; it cannot be used as it is."
        raise UserError(explain(path, f"angle version {', '.join(sorted(found))}", "le90", advice))
    return "angles le90: from its configuration" if found else "angles le90: assumed, the file holds no configuration that tells"


def infer_backbone(state_dict: StateDict, path: Any) -> tuple[str, str]:
    """The backbone's kind and name from block counts and widths."""
    keys = "\n".join(state_dict)
    blocks = set(re.findall(r"^backbone\.(?:stages\.|body\.layer)(\d)\.(\d+)\.", keys, re.MULTILINE))
    stages = sorted({stage for stage, _ in blocks})
    depths = tuple(sum(stage == of for of, _ in blocks) for stage in stages)
    if stages[:1] == ["0"]:  # ConvNeXt counts its stages from 0, ResNet from 1
        names = [f"backbone.stages.{i}.0.dwconv.weight" for i in range(4)]
        widths = tuple(state_dict[name].shape[0] if name in state_dict else 0 for name in names)
        generation = 2 if ".grn." in keys else 1
        for name, variant in VARIANTS.items():
            if variant == (depths, widths, generation):
                return "convnext", name
        found = f"a ConvNeXt of {depths} blocks and {widths} channels"
    else:
        resnet = RESNETS.get((depths, "backbone.body.layer1.0.conv3.weight" in state_dict))
        if resnet:
            return "timm", resnet
        found = f"a backbone with keys such as {next(iter(state_dict))}"
    raise UserError(explain(path, found, "a published ConvNeXt or ResNet", "This architecture cannot be built here."))


def class_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names in a checkpoint's metadata, None where there are none."""
    meta = _mapping(content.get("meta"))
    dataset = _mapping(meta.get("dataset_meta"))
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)
