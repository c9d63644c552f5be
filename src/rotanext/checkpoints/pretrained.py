"""Pretrained weights of backbones, from a local file of any layout or by their name on the Hugging Face hub."""

import re
from pathlib import Path

from torch import nn

from rotanext.checkpoints.layouts import DETECTORS, SUFFIXES, LoadReport, detect_layout, find_state_dict, load_strict, map_keys
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
    if layout in DETECTORS:
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
