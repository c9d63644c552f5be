"""Fixtures of the tests of exported detectors."""

from pathlib import Path

import pytest
import torch
from torch import nn

from exported import CLASSES, image
from fuzz_checkpoints import TINY
from networks import FAMILIES, backbone_overrides
from rotanext.inference.detector import Detector, build_network
from rotanext.models.network import Network
from tiny import draw_dataset, tiny_config

SMALL = ("neck.channels=4", "predict.image_size=0", "predict.tile=96", "predict.overlap=32")


def spread(model: Network) -> None:
    """Weights that give scores far apart, so that no two candidates tie; norms with the statistics of images."""
    for name, values in model.named_parameters():
        if name.startswith("head.") and name.endswith("weight"):
            nn.init.normal_(values, std=0.25)
        elif name.startswith("head.cls_out") and name.endswith("bias"):
            nn.init.constant_(values, -1.0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(model.prepare([torch.from_numpy(image(*size)) for size in ((130, 200), (96, 96))]))


@pytest.fixture(scope="module")
def detector(request: pytest.FixtureRequest) -> Detector:
    """Random weights of the family that is asked for: rotated RetinaNet unless told otherwise."""
    family = getattr(request, "param", "retina")
    torch.manual_seed(3)
    if family == "retina":
        config = tiny_config(Path("none"), None, f"backbone.name={TINY}", *SMALL)
        model = build_network(config, 2)
        spread(model)
        nn.init.normal_(model.head.reg_out.weight, std=0.02)
        with torch.no_grad():  # two of a position's anchors decode to the clamp: one far too long, one far too flat
            model.head.reg_out.bias[2], model.head.reg_out.bias[5 * 4 + 3] = 9.0, -9.0
    elif family == "aligned":
        config = tiny_config(Path("none"), None, f"backbone.name={TINY}", *SMALL, family=family)
        model = build_network(config, 2)
        spread(model)
        for reg in model.head.reg_out:
            nn.init.normal_(reg.weight, std=0.1)
        with torch.no_grad():  # at the finest level boxes are at the limit: far too long
            model.head.reg_out[0].bias[2] = 9.0
    else:  # sides of boxes are sums that may be negative: such boxes are none
        parts = (*backbone_overrides("cspnext_tiny"), *FAMILIES[family], "head.exponential=false")
        config = tiny_config(Path("none"), None, *parts, *SMALL)
        model = build_network(config, 2)
        spread(model)
        for reg, cls in zip(model.head.reg_out, model.head.cls_out, strict=True):
            nn.init.constant_(reg.bias, 0.5)
            nn.init.normal_(cls.weight, std=0.5)
            nn.init.constant_(cls.bias, -3.5)
    return Detector(model, config, CLASSES)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DOTA folder of three images."""
    return draw_dataset(tmp_path_factory.mktemp("images") / "data", 3)
