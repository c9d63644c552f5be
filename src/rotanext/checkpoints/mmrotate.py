"""What checkpoints of the MM toolboxes tell, whatever the family: configuration, class names, angles, colours, backbone.

Their configurations are programs: of 1.x ones, which are written out, literals are taken; of 0.x ones nothing but what texts,
shapes and versions say.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from rotanext.checkpoints.cfg_text import look_up, parse_cfg
from rotanext.checkpoints.layout import Checkpoint, StateDict, Translated, is_number, mapping_of
from rotanext.errors import UserError, explain
from rotanext.models import convnext, cspnext
from rotanext.models.network import MEAN, STD

RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # blocks of the four stages, with bottleneck or without
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
# What takes the image, of CSPNeXt, ConvNeXt and ResNet; in detectors and in most classifiers behind "backbone."
FIRST_CONVOLUTIONS = ("stem.0.conv.weight", "downsample_layers.0.0.weight", "conv1.weight")


def configuration(checkpoint: Checkpoint) -> dict[str, Any]:
    """The values of the configuration that a 1.x file holds as text; {} where there is none."""
    text = checkpoint.meta.get("cfg")
    return parse_cfg(text) if isinstance(text, str) else {}


def class_names(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """The class names in a checkpoint's metadata, None where there are none."""
    meta = checkpoint.meta
    dataset = mapping_of(meta.get("dataset_meta"))
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def said_of_averages(checkpoint: Checkpoint) -> list[str]:
    """That the weights taken are the averaged ones, where a 1.x file holds both: MMEngine changes them round on saving."""
    has_both = "ema_state_dict" in checkpoint.content
    return ["ignored: ema_state_dict, the weights before averaging; those in state_dict are the average"] if has_both else []


def check_angles(checkpoint: Checkpoint) -> str:
    """Say that the training configuration in the metadata is for le90 boxes, or that there is none; UserError for others.

    Detectors for the conventions "oc" and "le135" have the same tensors, and would silently give wrong boxes.
    """
    meta = checkpoint.meta
    texts = [text for text in (meta.get("config"), meta.get("cfg")) if isinstance(text, str)]
    found = set(re.findall(r"""angle_(?:version|range)['"]?\s*[=:]\s*['"](\w+)['"]""", "\n".join(texts)))
    if found - {"le90"}:
        advice = "Its boxes mean something else; it cannot be used as it is."
        raise UserError(explain(checkpoint.path, f"angle version {', '.join(sorted(found))}", "le90", advice))
    return "angles le90: from its configuration" if found else "angles le90: assumed, the file holds no configuration that tells"


def _close(values: Any, expected: Sequence[float]) -> bool:
    numbers = isinstance(values, list | tuple) and all(map(is_number, values)) and len(values) == len(expected)
    return bool(numbers) and all(math.isclose(v, e, rel_tol=1e-4) for v, e in zip(values, expected, strict=True))


def in_rgb(checkpoint: Checkpoint, usual: str) -> Translated:
    """The weights for images in RGB, and a note where the network was trained on BGR: its first convolution is turned.

    The configuration tells (its `data_preprocessor`); without one it is the `usual` order, "BGR" or "RGB". Raises UserError for
    pixels that were normalised by other numbers than ours.
    """
    cfg = configuration(checkpoint)
    given = look_up(cfg, "model", "data_preprocessor") or cfg.get("data_preprocessor")
    told = [value for key in ("bgr_to_rgb", "to_rgb") if isinstance(value := look_up(given, key), bool)]  # detectors, classifiers
    order = usual if not told else "RGB" if told[0] else "BGR"
    for name, ours in (("mean", MEAN), ("std", STD)):
        values, expected = look_up(given, name), ours if order == "RGB" else ours[::-1]
        if values is not None and not _close(values, expected):
            advice = "Pixels of other mean or deviation cannot be given to it here: train again."
            raise UserError(explain(checkpoint.path, f"{name} {values}", f"{list(expected)} ({order})", advice))
    if order == "RGB":
        return Translated(checkpoint.weights, [])
    weights = {
        key: value.flip(1) if key.removeprefix("backbone.") in FIRST_CONVOLUTIONS and value.ndim == 4 else value
        for key, value in checkpoint.weights.items()
    }
    source = "from its configuration" if told else "assumed, the file holds no configuration that tells"
    return Translated(weights, [f"trained on BGR ({source}): the first convolution's channels are turned to RGB"])


def infer_backbone(state_dict: StateDict, path: Any) -> tuple[str, str]:
    """The kind and name of the backbone among weights under our names, from block counts and widths; UserError for another."""
    keys = "\n".join(state_dict)
    if "backbone.stem.2.conv.weight" in state_dict:
        return _cspnext(state_dict, keys, path)
    blocks = set(re.findall(r"^backbone\.(?:stages\.|body\.layer)(\d)\.(\d+)\.", keys, re.MULTILINE))
    stages = sorted({stage for stage, _ in blocks})
    depths = tuple(sum(stage == of for of, _ in blocks) for stage in stages)
    if stages[:1] == ["0"]:  # ConvNeXt counts its stages from 0, ResNet from 1
        names = [f"backbone.stages.{i}.0.dwconv.weight" for i in range(4)]
        widths = tuple(state_dict[name].shape[0] if name in state_dict else 0 for name in names)
        generation = 2 if ".grn." in keys else 1
        for name, variant in convnext.VARIANTS.items():
            if variant == (depths, widths, generation):
                return "convnext", name
        found = f"a ConvNeXt of {depths} blocks and {widths} channels"
    else:
        resnet = RESNETS.get((depths, "backbone.body.layer1.0.conv3.weight" in state_dict))
        if resnet:
            return "timm", resnet
        found = f"a backbone with keys such as {next(iter(state_dict))}"
    raise UserError(explain(path, found, "a published ConvNeXt or ResNet", "This architecture cannot be built here."))


def _cspnext(state_dict: StateDict, keys: str, path: Any) -> tuple[str, str]:
    width = len(state_dict["backbone.stem.2.conv.weight"]) if state_dict["backbone.stem.2.conv.weight"].ndim else 0
    blocks = set(re.findall(r"^backbone\.stage(\d)\.\d\.blocks\.(\d+)\.", keys, re.MULTILINE))
    depths = tuple(sum(stage == str(of) for stage, _ in blocks) for of in range(1, 5))
    for name, variant in cspnext.VARIANTS.items():
        if (width, depths) == (variant.channels(64), tuple(variant.blocks(count) for _, count in cspnext.STAGES)):
            return "cspnext", name
    found, expected = f"a CSPNeXt of {depths} blocks and a stem of {width} channels", ", ".join(cspnext.VARIANTS)
    raise UserError(explain(path, found, expected, "This architecture cannot be built here."))
