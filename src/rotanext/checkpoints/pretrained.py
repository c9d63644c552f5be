"""Weights that a training starts from: of backbones, or of whole detectors, from a local file or the Hugging Face hub."""

import re
from pathlib import Path

from torch import nn

from rotanext.checkpoints.layout import Checkpoint, Layout, Translated
from rotanext.checkpoints.layouts import SUFFIXES, LoadReport, compare, detect_layout, find_state_dict, load_strict
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.errors import UserError, explain


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


def _read(source: str | Path) -> tuple[Layout, Path, Translated]:
    """The layout of a local file or of a name on the hub, its path, and its weights under our names."""
    path = Path(source)
    is_name = re.fullmatch(r"(timm/)?[\w.-]+", str(source)) and path.suffix not in SUFFIXES
    if is_name and not path.exists():
        path = fetch_pretrained(str(source))
    content = read_tensors(path)
    weights = find_state_dict(content, path)
    layout = detect_layout(weights, path)
    return layout, path, layout.apply(Checkpoint(path, weights, content))


def load_backbone(module: nn.Module, source: str | Path) -> LoadReport:
    """Load pretrained weights into a backbone, from a local file of any layout or a hub name.

    A classifier's head is ignored, and the output norms it lacks stay as they are; of a detector's file the backbone is
    taken. Anything else that does not match raises UserError.
    """
    layout, path, (weights, notes) = _read(source)
    if layout.holds == "backbone":
        kept = {key: value for key, value in weights.items() if not key.startswith(("head.", "norm.", "fc."))}
        ignored = [key for key in weights if key not in kept]
        norms: tuple[str, ...] = ("norm0.", "norm1.", "norm2.", "norm3.")
    else:
        kept = {key.removeprefix("backbone."): v for key, v in weights.items() if key.startswith("backbone.")}
        ignored = [key for key in weights if not key.startswith("backbone.")]
        norms = ()
    report = load_strict(module, kept, path, layout.name, may_miss=norms)
    report.ignored = ignored
    report.notes += notes
    return report


def load_start(network: nn.Module, source: str | Path) -> LoadReport:
    """Load what fits of a whole detector, rotated or not, into a network that is to be trained: the start of its training.

    The backbone must be the network's own, whole; of neck and head all tensors of equal names and shapes are taken. The report
    names what stays as it was (`missing`, `mismatched_shapes`) and what is left in the file (`unexpected`). Raises UserError,
    leaving the network as it was, for a file without a detector or of another backbone.
    """
    layout, path, (weights, notes) = _read(source)
    if layout.holds == "backbone":
        advice = "Give it as backbone.weights."
        raise UserError(explain(path, f"backbone weights ({layout.name})", "a whole detector", advice))
    report = compare(network, weights, layout.name)
    lacking = [key for key in report.missing if not key.endswith("num_batches_tracked")] + report.mismatched_shapes
    wrong = [key for key in lacking if key.startswith("backbone.")]
    wrong += [key for key in report.unexpected if key.startswith("backbone.")]
    if wrong:
        found = f"another backbone ({len(wrong)} tensors such as {wrong[0]})"
        advice = "Choose the size that the file is of, or give it as backbone.weights."
        raise UserError(explain(path, found, "a detector on the same backbone", advice))
    network.load_state_dict({key: weights[key] for key in report.matched}, strict=False)
    report.notes += notes
    return report
