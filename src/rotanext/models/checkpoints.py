"""Checkpoints of every published layout to our names: key maps, strict loading with a report, and our own file format.

Third-party files are read by `unpickle.read_tensors`, which never runs anything in them. Our own files are safetensors
with the configuration, class names and conventions as JSON in the header: they have no way to hold code at all.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rotanext.boxes import CONVENTION
from rotanext.errors import UserError, explain
from rotanext.files import write_atomically
from rotanext.models.convnext import VARIANTS
from rotanext.models.unpickle import Placeholder, read_tensors

Anchors = Literal["v0", "v1"]
StateDict = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

FORMAT = 1
SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".safetensors", ".ckpt")

MM_CONVNEXT: Rules = ((r"\.depthwise_conv\.", ".dwconv."), (r"\.pointwise_conv([12])\.", r".pwconv\1."))
# per layout: keys of which one must occur, then regular expressions applied in order
SIGNATURES: dict[str, tuple[str, ...]] = {
    "rotanext detector": ("head.cls_out.weight", "head.reg_out.weight"),
    "mmrotate": ("bbox_head.retina_cls.weight", "bbox_head.retina_reg.weight"),
    "mmpretrain": ("backbone.stages.0.0.depthwise_conv.weight", "stages.0.0.depthwise_conv.weight"),
    "convnext": ("stages.0.0.dwconv.weight",),
    "timm convnext": ("stages.0.blocks.0.conv_dw.weight",),
    "resnet": ("layer1.0.conv1.weight", "body.layer1.0.conv1.weight"),
}
RULES: dict[str, Rules] = {
    "rotanext detector": (),
    "mmrotate": (
        *MM_CONVNEXT,
        (r"^backbone\.(conv1|bn1|layer\d)\.", r"backbone.body.\1."),
        (r"^neck\.lateral_convs\.(\d+)\.conv\.", r"fpn.lateral.\1."),
        (r"^neck\.fpn_convs\.([012])\.conv\.", r"fpn.output.\1."),
        (r"^neck\.fpn_convs\.3\.conv\.", "fpn.extra.0."),
        (r"^neck\.fpn_convs\.4\.conv\.", "fpn.extra.1."),
        (r"^bbox_head\.(cls|reg)_convs\.(\d+)\.conv\.", r"head.\1_tower.\2."),
        (r"^bbox_head\.retina_(cls|reg)\.", r"head.\1_out."),
    ),
    "mmpretrain": ((r"^backbone\.", ""), *MM_CONVNEXT, (r"^norm3\.", "norm."), (r"^head\.fc\.", "head.")),
    "convnext": (),
    "timm convnext": (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc([12])\.", r".pwconv\1."),
        (r"\.mlp\.grn\.weight$", ".grn.gamma"),
        (r"\.mlp\.grn\.bias$", ".grn.beta"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ),
    "resnet": ((r"^(conv1|bn1|layer\d)\.", r"body.\1."),),
}
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # blocks of the four stages, with bottleneck or without
    ((2, 2, 2, 2), False): "timm:resnet18",
    ((3, 4, 6, 3), False): "timm:resnet34",
    ((3, 4, 6, 3), True): "timm:resnet50",
    ((3, 4, 23, 3), True): "timm:resnet101",
    ((3, 8, 36, 3), True): "timm:resnet152",
}


@dataclass
class LoadReport:
    """What became of every key of a checkpoint; `missing` and so on hold our names."""

    layout: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched_shapes: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.layout} layout: {len(self.matched)} tensors loaded"]
        for label in ("missing", "unexpected", "mismatched_shapes", "ignored"):
            keys = getattr(self, label)
            if keys:
                more = f", ... {len(keys) - 8} more" if len(keys) > 8 else ""
                lines.append(f"  {label.replace('_', ' ')} ({len(keys)}): {', '.join(keys[:8])}{more}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


@dataclass
class DetectorFile:
    """A detector's checkpoint under our names, with what its file says about it."""

    layout: str
    state_dict: StateDict
    backbone: str
    num_classes: int
    fpn_channels: int
    tower_depth: int
    anchors: Anchors
    class_names: tuple[str, ...] | None
    config: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def detect_layout(keys: Mapping[str, Any], path: str | Path) -> str:
    """The name of the layout these keys are in; raises UserError for an unknown one."""
    for layout, signature in SIGNATURES.items():
        if any(key in keys for key in signature):
            return layout
    found = f"{len(keys)} keys such as {', '.join(sorted(keys)[:3])}"
    advice = "It holds another architecture; only rotated RetinaNet, ConvNeXt and ResNet weights can be read."
    raise UserError(explain(path, found, " or ".join(SIGNATURES), advice))


def map_keys(layout: str, state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename to our names; 1x1 convolutions become linear layers, and normalisation parameters flat vectors."""
    mapped = {}
    for key, value in state_dict.items():
        for pattern, replacement in RULES[layout]:
            key = re.sub(pattern, replacement, key)
        if ".pwconv" in key and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        elif ".grn." in key:
            value = value.flatten()
        mapped[key] = value
    return mapped


def _as_tensor(value: Any) -> Any:
    """A NumPy array of numbers as a tensor; everything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    except TypeError:  # an array of texts, or of a type that torch lacks
        return value


def find_state_dict(content: Mapping[str, Any], path: str | Path) -> StateDict:
    """The weights in a checkpoint's content: under `state_dict` or `model`, or the content itself."""
    weights: Any = content
    for name in ("state_dict", "model"):
        if isinstance(content.get(name), dict):
            weights = content[name]
            break
    converted = {key: _as_tensor(value) for key, value in weights.items()}
    if not converted or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in converted.items()):
        found = (
            f"the keys {', '.join(key if isinstance(key, str) else type(key).__name__ for key in list(content)[:5])}"
            if content
            else "nothing"
        )
        advice = "Save the model's state dict."
        raise UserError(explain(path, found, "a state dict, alone or under 'state_dict' or 'model'", advice))
    if all(key.startswith("module.") for key in converted):  # saved from a model wrapped for several devices
        converted = {key.removeprefix("module."): value for key, value in converted.items()}
    return converted


def check_strict(
    module: nn.Module, state_dict: StateDict, path: str | Path, layout: str, may_miss: Sequence[str] = ()
) -> LoadReport:
    """Compare weights with what `module` has, which may be on the meta device; see `load_strict`."""
    own = module.state_dict()
    report = LoadReport(layout)
    for key, value in state_dict.items():
        if key not in own:
            report.unexpected.append(key)
        elif own[key].shape != value.shape:
            report.mismatched_shapes.append(f"{key} {list(value.shape)} for {list(own[key].shape)}")
        else:
            report.matched.append(key)
    missing = [key for key in own if key not in state_dict]
    allowed = [key for key in missing if key.startswith(tuple(may_miss)) or key.endswith("num_batches_tracked")]
    report.missing = [key for key in missing if key not in allowed]
    if report.missing or report.unexpected or report.mismatched_shapes:
        advice = "It is incomplete, or of another architecture or class count; choose what it was trained with."
        raise UserError(explain(path, report.text(), "exactly the model's tensors", advice))
    if allowed:
        report.notes.append(f"not in the file, left at their initial values: {', '.join(allowed)}")
    return report


def load_strict(
    module: nn.Module, state_dict: StateDict, path: str | Path, layout: str, may_miss: Sequence[str] = ()
) -> LoadReport:
    """Copy weights into `module`; all or nothing.

    `may_miss` are beginnings of keys that may stay at their initial values. Raises UserError, naming the keys and
    leaving the module as it was, when any other is missing, unexpected or of another shape.
    """
    report = check_strict(module, state_dict, path, layout, may_miss)
    module.load_state_dict({key: state_dict[key] for key in report.matched}, strict=False)
    return report


def fetch_pretrained(name: str) -> Path:
    """The local file of `timm/NAME` on the Hugging Face hub, from its cache where possible.

    `name` with or without `timm/`, such as `convnext_tiny.fb_in1k`. HF_HUB_OFFLINE is respected. Raises UserError
    when it is neither in the cache nor within reach.
    """
    from huggingface_hub import hf_hub_download

    repository = f"timm/{name.removeprefix('timm/')}"
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # the hub's client raises a dozen kinds, of three libraries
        reason = str(error).strip().splitlines()
        found = f"no way to fetch it ({type(error).__name__}: {reason[0] if reason else ''})"
        advice = (
            "Check the name and the network, or fetch model.safetensors elsewhere from "
            f"huggingface.co/{repository} and give the path of that file instead of the name."
        )
        raise UserError(explain(repository, found, "pretrained weights on the Hugging Face hub", advice)) from None


def load_backbone(module: nn.Module, source: str | Path) -> LoadReport:
    """Load pretrained weights into a backbone, from a local file of any layout or a hub name.

    A classifier's head is ignored, and the output norms it lacks stay as they are; of a detector's file the backbone is
    taken. Anything else that does not match raises UserError.
    """
    path = Path(source)
    is_name = re.fullmatch(r"(timm/)?[\w.-]+", str(source)) and path.suffix not in SUFFIXES
    if is_name and not path.exists():
        path = fetch_pretrained(str(source))
    weights = find_state_dict(read_tensors(path), path)
    layout = detect_layout(weights, path)
    mapped = map_keys(layout, weights)
    if layout in ("mmrotate", "rotanext detector"):
        kept = {key.removeprefix("backbone."): v for key, v in mapped.items() if key.startswith("backbone.")}
        ignored = [key for key in mapped if not key.startswith("backbone.")]
        norms: tuple[str, ...] = ()
    else:
        kept = {key: value for key, value in mapped.items() if not key.startswith(("head.", "norm.", "fc."))}
        ignored = [key for key in mapped if key not in kept]
        norms = ("norm0.", "norm1.", "norm2.", "norm3.")
    report = load_strict(module, kept, path, layout, may_miss=norms)
    report.ignored = ignored
    return report


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
        tower_depth=sum(re.fullmatch(r"head\.cls_tower\.\d+\.weight", key) is not None for key in weights),
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
    try:
        package = version("rotanext")
    except PackageNotFoundError:  # run from a source tree that was never installed
        package = "unknown"
    header = {
        "format": FORMAT,
        "kind": "detector",
        "version": package,
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
