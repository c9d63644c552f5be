"""Fixtures of the tests of exported detectors."""

from pathlib import Path

import pytest
import torch

from exported import CLASSES
from fuzz_checkpoints import TINY
from rotanext.inference.detector import Detector, build_network
from tiny import draw_dataset, tiny_config


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Random weights with scores far apart, so that no two candidates tie; two of a position's anchors decode to the clamp."""
    overrides = (f"backbone.name={TINY}", "neck.channels=4", "predict.image_size=0", "predict.tile=96", "predict.overlap=32")
    config = tiny_config(Path("none"), None, *overrides)
    torch.manual_seed(3)
    model = build_network(config, 2)
    for name, values in model.named_parameters():
        if name.startswith("head.") and name.endswith("weight"):
            torch.nn.init.normal_(values, std=0.25)
    torch.nn.init.constant_(model.head.cls_out.bias, -1.0)
    torch.nn.init.normal_(model.head.reg_out.weight, std=0.02)
    with torch.no_grad():  # one far too long, one far too flat
        model.head.reg_out.bias[2], model.head.reg_out.bias[5 * 4 + 3] = 9.0, -9.0
    return Detector(model, config, CLASSES)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DOTA folder of three images."""
    return draw_dataset(tmp_path_factory.mktemp("images") / "data", 3)
