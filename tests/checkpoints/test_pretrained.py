"""Pretrained backbones: every published layout from a file, names on the hub, and strictness."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from formula import golden_weights
from mmrotate_files import V0_META, as_mmrotate
from networks import small_network
from rotanext.checkpoints.pretrained import load_backbone
from rotanext.errors import UserError
from rotanext.models.convnext import ConvNeXt
from rotanext.models.network import Network


@pytest.mark.parametrize(("file", "wrap"), [
    ("official_convnext_tiny.json", lambda sd: {"model": sd}),
    ("official_convnext_tiny.json", lambda sd: {"model": {k: v for k, v in sd.items() if "head" not in k}
                                                | {"head.weight": torch.zeros(5, 768), "head.bias": torch.zeros(5)}}),
    ("mmpretrain_convnext_tiny_shapes.json", lambda sd: {"meta": {}, "state_dict": sd}),
], ids=["authors-1k", "authors-other-head", "mmpretrain"])  # fmt: skip
def test_convnext_layouts(file: str, wrap: Callable[..., Any], tmp_path: Path) -> None:
    weights = golden_weights(file)
    torch.save(wrap(weights), tmp_path / "w.pth")
    model = ConvNeXt("convnext_tiny")
    report = load_backbone(model, tmp_path / "w.pth")
    assert len(report.matched) == 178  # all but norm and head
    assert sorted(report.ignored) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    assert "norm0.weight" in report.text()
    prefix = "backbone." if file.startswith("mmpretrain") else ""
    name = "depthwise_conv" if prefix else "dwconv"
    assert torch.equal(model.stages[2][8].dwconv.weight, weights[f"{prefix}stages.2.8.{name}.weight"])
    assert torch.equal(model.norm3.weight, torch.ones(768))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_timm_convnext(name: str, suffix: str, tmp_path: Path) -> None:
    theirs = timm.create_model(name)
    path = tmp_path / f"w.{suffix}"
    (torch.save if suffix == "pth" else save_file)(theirs.state_dict(), path)
    ours = ConvNeXt(name)
    load_backbone(ours, path)
    assert torch.equal(ours.stages[1][0].pwconv1.weight, theirs.stages[1].blocks[0].mlp.fc1.weight.flatten(1))


def test_resnet(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18")
    weights = {k: v for k, v in theirs.state_dict().items() if "num_batches" not in k}  # as torchvision's first files
    torch.save(weights, tmp_path / "r.pth")
    model = small_network("timm:resnet18", 2)
    report = load_backbone(model.backbone, tmp_path / "r.pth")
    assert report.ignored == ["fc.weight", "fc.bias"]
    assert torch.equal(model.backbone.body.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_backbone_of_a_detector(small: Network, tmp_path: Path) -> None:
    torch.save({"meta": V0_META, "state_dict": as_mmrotate(small.state_dict())}, tmp_path / "d.pth")
    model = ConvNeXt("convnext_atto")
    load_backbone(model, tmp_path / "d.pth")
    assert torch.equal(model.norm2.weight, small.backbone.norm2.weight)


@pytest.mark.parametrize(("change", "named"), [
    (lambda sd: sd.pop("stages.1.0.dwconv.weight"), "missing (1): stages.1.0.dwconv.weight"),
    (lambda sd: sd.update({"stages.1.7.norm.bias": torch.zeros(1)}), "unexpected (1): stages.1.7.norm.bias"),
    (lambda sd: sd.update({"stages.1.0.norm.bias": torch.zeros(7)}), "stages.1.0.norm.bias [7] for [80]"),
], ids=["missing", "unexpected", "shape"])  # fmt: skip
def test_strict(change: Callable[..., Any], named: str, tmp_path: Path) -> None:
    weights = ConvNeXt("convnext_atto", num_classes=3).state_dict()
    change(weights)
    torch.save({"model": weights}, tmp_path / "w.pth")
    model = ConvNeXt("convnext_atto")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_backbone(model, tmp_path / "w.pth")
    assert named in str(error.value)
    assert "w.pth" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"timm/convnext_atto\.d2_in1k.*path of that file"):
        load_backbone(ConvNeXt("convnext_atto"), "convnext_atto.d2_in1k")


def test_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(timm.create_model("convnext_atto").state_dict(), tmp_path / "model.pth")
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "model.pth")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for name in ("convnext_atto.d2_in1k", "timm/convnext_atto.d2_in1k"):
        load_backbone(ConvNeXt("convnext_atto"), name)
    assert set(asked) == {("timm/convnext_atto.d2_in1k", "model.safetensors")}


def test_missing_backbone_file() -> None:
    with pytest.raises(UserError, match=r"none\.pth"):
        load_backbone(ConvNeXt("convnext_atto"), "none.pth")
