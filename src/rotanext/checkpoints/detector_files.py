"""Files of whole detectors: our own format, and what checkpoints of MMRotate tell of their networks and anchors.

Our own files are safetensors with the configuration, class names and conventions as JSON in the header: they have no way to hold
code at all.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.checkpoints.layouts import StateDict, detect_layout, find_state_dict, map_keys
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.checkpoints.unpickle import Placeholder
from rotanext.errors import UserError, explain
from rotanext.models.convnext import VARIANTS
from rotanext.system.files import write_atomically

Anchors = Literal["v0", "v1"]  # those of MMRotate 0.x and 1.x
FORMAT = 1
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # blocks of the four stages, with bottleneck or without
    ((2, 2, 2, 2), False): "timm:resnet18",
    ((3, 4, 6, 3), False): "timm:resnet34",
    ((3, 4, 6, 3), True): "timm:resnet50",
    ((3, 4, 23, 3), True): "timm:resnet101",
    ((3, 8, 36, 3), True): "timm:resnet152",
}


@dataclass
class DetectorFile:
    """A detector's checkpoint under our names, with what its file says about it."""

    layout: str
    state_dict: StateDict
    backbone: str
    num_classes: int
    fpn_channels: int
    stacked_convs: int
    anchors: Anchors
    class_names: tuple[str, ...] | None
    config: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def _mapping(value: Any) -> dict[Any, Any]:
    """A dict, or the entries of an object that was a dict in the toolbox that wrote it."""
    if isinstance(value, Placeholder):
        value = value.mapping
    return value if isinstance(value, dict) else {}


def anchor_convention(content: Mapping[str, Any], path: str | Path, override: Anchors | None = None) -> tuple[Anchors, str]:
    """Which anchors an MMRotate checkpoint was trained with, and why: `v0` never regularised, `v1` regularised to le90.

    `content` is the whole checkpoint, of which `meta` and the presence of `message_hub` tell. `override` wins. Raises
    UserError when the signs are absent or contradict each other.
    """
    if override is not None:
        return override, "as asked"
    meta = _mapping(content.get("meta"))
    found_versions = {name: meta.get(f"{name}_version") for name in ("mmrotate", "mmdet", "mmcv", "mmengine")}
    versions = {name: value if isinstance(value, str) else "" for name, value in found_versions.items()}
    signs: dict[Anchors, list[str]] = {"v0": [], "v1": []}
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
    chosen: Anchors = "v0" if signs["v0"] else "v1"
    return chosen, ", ".join(signs[chosen])


def _check_angles(content: Mapping[str, Any], path: str | Path) -> str:
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


def _infer_backbone(state_dict: StateDict, path: str | Path) -> str:
    """The backbone's name from block counts and widths."""
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
                return name
        found = f"a ConvNeXt of {depths} blocks and {widths} channels"
    else:
        resnet = RESNETS.get((depths, "backbone.body.layer1.0.conv3.weight" in state_dict))
        if resnet:
            return resnet
        found = f"a backbone with keys such as {next(iter(state_dict))}"
    raise UserError(explain(path, found, "a published ConvNeXt or ResNet", "This architecture cannot be built here."))


def _configured_backbone(config: dict[str, Any], path: str | Path) -> str:
    """The backbone's name in our own file's configuration."""
    model = config.get("model")
    name = model.get("backbone") if isinstance(model, dict) else None
    if not isinstance(name, str):
        advice = "Its header is damaged; fetch it again."
        raise UserError(explain(path, "a configuration without model.backbone", "the name of its backbone", advice))
    return name


def _class_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    meta = _mapping(content.get("meta"))
    dataset = _mapping(meta.get("dataset_meta"))
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def read_detector_file(path: str | Path, anchors: Anchors | None = None) -> DetectorFile:
    """Read a detector of MMRotate 0.x or 1.x, or of our own format, under our names.

    `anchors` overrides the convention the file's metadata tells. Raises UserError for a file that is no detector, is
    damaged, contradicts itself or does not tell its anchors.
    """
    path = Path(path)
    content = read_tensors(path)
    weights = find_state_dict(content, path)
    layout = detect_layout(weights, path)
    if layout not in ("mmrotate", "rotanext detector"):
        advice = "Give it as pretrained weights, or give a detector's checkpoint."
        raise UserError(explain(path, f"backbone weights ({layout})", "a whole detector", advice))
    config = None
    notes = []
    if layout == "rotanext detector":
        header = _read_header(path)
        names: tuple[str, ...] | None = tuple(header["class_names"])
        convention, config = anchors or header["anchors"], header["config"]
    else:
        ignored = [key for key in weights if key.startswith(("data_preprocessor.", "ema_"))]
        notes += [f"ignored: {', '.join(ignored[:4])}{' ...' * (len(ignored) > 4)}"] if ignored else []
        weights = map_keys(layout, {key: value for key, value in weights.items() if key not in ignored})
        names = _class_names(content)
        convention, reason = anchor_convention(content, path, anchors)
        notes.append(f"anchors {convention}: {reason}")
        notes.append(_check_angles(content, path))
    if not {"head.cls_out.weight", "head.reg_out.weight", "fpn.output.0.weight"} <= weights.keys():
        raise UserError(explain(path, "no head or no FPN", "a rotated RetinaNet", "Its weights are incomplete."))
    per_position = weights["head.reg_out.weight"].shape[0] // 5
    num_classes = weights["head.cls_out.weight"].shape[0] // max(1, per_position)
    if names is not None and len(names) != num_classes:
        advice = "Its metadata and weights come from different runs; it cannot be used as it is."
        raise UserError(explain(path, f"{len(names)} class names", f"{num_classes}, as its head has", advice))
    broken = sum(value.is_floating_point() and not bool(value.isfinite().all()) for value in weights.values())
    if broken:
        advice = "The training it comes from diverged; use an earlier checkpoint."
        raise UserError(explain(path, f"{broken} tensors with NaN or infinity", "finite weights", advice))
    return DetectorFile(
        layout=layout,
        state_dict=weights,
        backbone=_configured_backbone(config, path) if config is not None else _infer_backbone(weights, path),
        num_classes=num_classes,
        fpn_channels=weights["fpn.output.0.weight"].shape[0],
        stacked_convs=sum(re.fullmatch(r"head\.cls_convs\.\d+\.weight", key) is not None for key in weights),
        anchors=convention,
        class_names=names,
        config=config,
        notes=notes,
    )


def _read_header(path: Path) -> dict[str, Any]:
    """The checked JSON header of a file in our own format."""
    expected = f"a rotanext detector of format {FORMAT}, boxes {CONVENTION.split(':')[0]}"
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["rotanext"])
        found = f"format {header['format']}, boxes '{header['box_convention']}'"
        valid = (header["format"], header["box_convention"]) == (FORMAT, CONVENTION)
        valid = valid and header["anchors"] in ("v0", "v1") and isinstance(header["config"], dict)
        valid = valid and all(isinstance(name, str) for name in header["class_names"])
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        found, valid = f"no readable header ({type(error).__name__}: {error})", False
    if not valid:
        raise UserError(explain(path, found, expected, "Use the version of rotanext that wrote it, or save it again."))
    return header


def save_detector_file(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    config: dict[str, Any],
    class_names: Sequence[str],
    anchors: Anchors,
) -> None:
    """Write our own format: safetensors with everything needed to rebuild the detector in its header.

    A failure, such as a full disk, raises UserError and leaves the previous file as it was.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "kind": "detector",
        "version": __version__,
        "config": config,
        "class_names": list(class_names),
        "box_convention": CONVENTION,
        "anchors": anchors,
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}

    def write(part: Path) -> None:
        try:
            save_file(tensors, part, metadata={"rotanext": json.dumps(header)})
        except SafetensorError as error:  # also what it makes of a full disk
            raise OSError(str(error)) from None

    write_atomically(path, write)
