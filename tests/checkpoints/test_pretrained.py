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
from rotanext.checkpoints.pretrained import load_backbone, load_start
from rotanext.config import load_config
from rotanext.errors import UserError
from rotanext.inference.detector import build_network
from rotanext.models.convnext import ConvNeXt
from rotanext.models.cspnext import CSPNeXt
from rotanext.models.network import Network
from rtmdet_files import META, coco, weights, write


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


def rtmdet(classes: int, *overrides: str) -> Network:
    torch.manual_seed(3)
    return build_network(load_config("rotated-rtmdet_tiny-3x-dota", overrides), classes)


@pytest.mark.parametrize("cfg", ["", "data_preprocessor = dict(to_rgb=False)"])
def test_cspnext_of_imagenet(cfg: str, tmp_path: Path) -> None:
    theirs = {key: value for key, value in weights("tiny").items() if key.startswith("backbone.")}
    file = {
        "meta": {"cfg": cfg},
        "state_dict": theirs | {"head.fc.weight": torch.ones(1000, 384), "head.fc.bias": torch.ones(1000)},
    }
    torch.save(file, tmp_path / "cspnext-tiny_imagenet_600e.pth", _use_new_zipfile_serialization=False)
    model = CSPNeXt("cspnext_tiny")
    report = load_backbone(model, tmp_path / "cspnext-tiny_imagenet_600e.pth")
    assert report.ignored == ["head.fc.weight", "head.fc.bias"]
    stem = theirs["backbone.stem.0.conv.weight"]
    assert torch.equal(model.stem[0].conv.weight, stem.flip(1) if cfg else stem)
    assert ("turned to RGB" in report.text()) == bool(cfg)


@pytest.mark.parametrize("horizontal", [False, True])
def test_the_backbone_of_an_rtmdet(horizontal: bool, tmp_path: Path) -> None:
    state = coco("tiny") if horizontal else weights("tiny")
    model = CSPNeXt("cspnext_tiny")
    report = load_backbone(model, write(tmp_path / "r.pth", state))
    assert torch.equal(model.stem[0].conv.weight, state["backbone.stem.0.conv.weight"].flip(1))
    assert all(key.startswith(("neck.", "head.")) for key in report.ignored)


def test_a_start_from_a_horizontal_detector(tmp_path: Path) -> None:
    """What fits in name and shape is taken, and all else is named: the logits of eighty classes, and angles."""
    network = rtmdet(15)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = load_start(network, write(tmp_path / "rtmdet_tiny_8xb32-300e_coco.pth", coco("tiny"), {"cfg": META["cfg"]}))
    outputs = [f"{level}.{leaf}" for level in range(3) for leaf in ("weight", "bias")]
    assert report.missing == [f"head.ang_out.{output}" for output in outputs]
    assert [line.split()[0] for line in report.mismatched_shapes] == [f"head.cls_out.{output}" for output in outputs]
    assert report.unexpected == []
    after = network.state_dict()
    assert torch.equal(after["head.reg_out.1.weight"], weights("tiny")["bbox_head.rtm_reg.1.weight"])
    assert torch.equal(after["head.cls_norms.2.1.running_var"], weights("tiny")["bbox_head.cls_convs.2.1.bn.running_var"])
    kept = [key for key in before if "cls_out" in key or "ang_out" in key]
    assert all(torch.equal(after[key], before[key]) for key in kept)
    assert sorted(kept + report.matched) == sorted(before)
    assert "head.ang_out.2.bias" in report.text()
    assert "head.cls_out.0.bias [80] for [15]" in report.text()


def test_a_start_from_a_rotated_detector(tmp_path: Path) -> None:
    network = rtmdet(2)
    report = load_start(network, write(tmp_path / "r.pth", weights("tiny")))
    assert report.missing == []
    assert len(report.mismatched_shapes) == 6


@pytest.mark.parametrize(("make", "message"), [
    (lambda t: write(t / "r.pth", coco("s")), r"another backbone \(.*such as backbone\..*the size that the file is of"),
    (lambda t: write(t / "r.pth", weights("convnext-tiny_pafpn")), "another backbone"),
    (lambda t: write(t / "r.pth", {k: v for k, v in weights("tiny").items() if k.startswith("backbone.")}),
     r"backbone weights \(cspnext\)(.|\n)*Give it as backbone\.weights"),
], ids=["size", "family", "backbone"])  # fmt: skip
def test_files_that_are_no_start(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    network = rtmdet(15)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_start(network, make(tmp_path))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
