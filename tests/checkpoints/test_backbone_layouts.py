"""Backbones alone: what of a classifier's file is more than names."""

import torch

from rotanext.checkpoints.layouts import detect_layout, map_keys
from rtmdet_files import weights


def test_cspnext_on_imagenet_keeps_its_colours() -> None:
    """Classifiers are trained on RGB, detectors on BGR: the first convolution is turned of the latter alone."""
    theirs = {key: value for key, value in weights("s").items() if key.startswith("backbone.")} | {"head.fc.bias": torch.ones(1000)}
    assert detect_layout(theirs, "cspnext-s_imagenet_600e.pth").name == "cspnext"
    ours = map_keys("cspnext", theirs)
    assert ours.keys() == {key.removeprefix("backbone.") for key in theirs}
    assert torch.equal(ours["stem.0.conv.weight"], theirs["backbone.stem.0.conv.weight"])
    assert detect_layout(ours, "ours.safetensors").name == "cspnext"
