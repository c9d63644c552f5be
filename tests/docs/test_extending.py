"""The steps of docs/extending.md, followed: a backbone of timm's, one of our own, a loss."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rich.console import Console

from places import ROOT
from rotanext import config as settings
from rotanext.errors import Problems
from rotanext.heads.losses import REGRESSION_LOSSES
from rotanext.load import load_detector
from rotanext.models import backbones, network
from rotanext.training.train import start_training
from tiny import tiny_config

PAGE = (ROOT / "docs/extending.md").read_text()


def block_of(heading: str) -> dict[str, Any]:
    """The names that the first Python block below a heading defines."""
    found = re.search(rf"^## {heading}$.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    names: dict[str, Any] = {"__name__": "block"}
    exec(compile(found[1], f"extending.md, {heading}", "exec"), names)
    return names


def trained(tiny_dataset: Path, folder: Path, *overrides: str) -> Any:
    config = tiny_config(tiny_dataset / "train", None, *overrides)
    start_training(config, folder, "cpu", Problems(strict=True), Console(quiet=True))
    return load_detector(folder / "last.safetensors", "cpu")


def test_a_backbone_of_timm(tiny_dataset: Path, tmp_path: Path) -> None:
    name = re.search(r"model\.backbone=(timm:\w+)", PAGE)
    assert name
    detector = trained(tiny_dataset, tmp_path / "run", f"backbone.name={name[1]}")
    assert detector.config.model.backbone == name[1]
    assert type(detector.model.backbone).__name__ == "TimmBackbone"


def test_a_backbone_of_our_own(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = block_of("A backbone")["Plain"]
    others = backbones.build_backbone

    def build(name: str, options: backbones.BackboneOptions) -> Any:
        return plain() if name == "plain" else others(name, options)

    for module in (backbones, network):  # step 2, without editing the file
        monkeypatch.setattr(module, "build_backbone", build)
    detector = trained(tiny_dataset, tmp_path / "run", "backbone.name=plain")
    assert type(detector.model.backbone).__name__ == "Plain"
    assert all(parameter.isfinite().all() for parameter in detector.model.parameters())


def test_a_loss(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = block_of("A loss")["centre_loss"]
    boxes = torch.tensor([[10.0, 10, 8, 4, 0.3], [0, 0, 1e-7, 1e-7, 0], [1e4, 0, 1e4, 1, 1]], requires_grad=True)
    values = loss(boxes, torch.tensor([[10.0, 10, 8, 4, 0.3], [1e4, 1e4, 1, 1, 0], [0, 0, 1e-7, 1e-7, 0]]))
    values.sum().backward()
    assert values[0] == 0
    assert values.isfinite().all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()
    calls = []
    monkeypatch.setitem(REGRESSION_LOSSES, "gwd", lambda a, b: calls.append(len(a)) or loss(a, b))  # step 2, in another's place
    trained(tiny_dataset, tmp_path / "run", "head.box_loss=gwd")
    assert sum(calls) > 0


def test_every_loss_is_known_to_the_configuration() -> None:
    assert set(get_args(settings.LossConfig.model_fields["regression"].annotation)) == set(REGRESSION_LOSSES)  # step 3
