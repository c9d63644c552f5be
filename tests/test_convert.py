"""`rotanext convert`: detectors and backbones of other layouts become our own files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import formula
import rotanext
import rtmdet_files
from mmrotate_files import V0, V1
from rotanext.checkpoints.layouts import map_keys
from rotanext.checkpoints.pretrained import load_start
from rotanext.config import load_config
from rotanext.inference.detector import build_network
from rotanext.load import load_detector

IMAGE = formula.image(3, 96, 128)


def same(a: rotanext.Detector, b: rotanext.Detector) -> None:
    one, two = (detector(IMAGE, score_threshold=0.3) for detector in (a, b))
    assert len(one) > 0
    assert torch.equal(one.boxes, two.boxes)
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(one.labels, two.labels)


@pytest.mark.parametrize("meta", [V0, V1], ids=["v0", "v1"])
def test_convert_a_detector(meta: dict[str, Any], mmrotate: Callable[..., Path], cli: Callable, tmp_path: Path) -> None:
    source, target = mmrotate("a.pth", meta), tmp_path / "ours.safetensors"
    done = cli("convert", source, target)
    assert done.code == 0, done.err
    assert "anchors v" in done.err
    assert f"{target}: a detector of 15 classes" in done.err
    same(load_detector(source, "cpu"), load_detector(target, "cpu"))
    again = cli("convert", target, tmp_path / "again.safetensors")
    assert again.code == 0, again.err
    assert (tmp_path / "again.safetensors").read_bytes() == target.read_bytes()


def test_convert_a_backbone(cli: Callable, tmp_path: Path) -> None:
    config = load_config("demo", ["neck.channels=8"])
    backbone = build_network(config, 2).backbone
    pairs = ((".dwconv.", ".depthwise_conv."), (".pwconv", ".pointwise_conv"))
    theirs = {}
    for key, value in backbone.state_dict().items():
        for ours, other in pairs:
            key = key.replace(ours, other)
        theirs[f"backbone.{key}"] = value
    theirs["head.fc.bias"] = next(iter(theirs.values()))  # shares its memory with another tensor
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    done = cli("convert", tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert done.code == 0, done.err
    assert f"use them as backbone.weights={tmp_path / 'ours.safetensors'}" in done.err
    assert map_keys("convnext", load_file(tmp_path / "ours.safetensors")).keys() > backbone.state_dict().keys() - {
        "norm3.weight",
        "norm3.bias",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{weights}", "{tmp}/a.pth"), "must end in .safetensors"),
        (("{weights}", "{tmp}/a.safetensors", "--anchors", "v2"), "--anchors is 'v2'; expected v0 or v1"),
        (("{tmp}/none.pth", "{tmp}/a.safetensors"), "none.pth: found No such file"),
        (("{weights}", "{tmp}/file/a.safetensors"), "could not be written"),
        (("{weights}", "{tmp}/a.safetensors", "--classes", "dota1.0"), "2 classes; expected 15"),
    ],
)
def test_conversions_that_cannot_be(
    arguments: tuple[str, ...], message: str, cli: Callable, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = cli("convert", *(argument.format(weights=tiny_weights, tmp=tmp_path) for argument in arguments))
    assert done.code == 2
    assert message in done.err
    assert not list(tmp_path.glob("*.safetensors"))


def test_convert_a_start(cli: Callable, tmp_path: Path) -> None:
    """A horizontal detector is no detector here, but what a training may begin with; so is what it was converted to."""
    rtmdet_files.write(tmp_path / "rtmdet_tiny_8xb32-300e_coco.pth", rtmdet_files.coco("tiny"))
    source, target = tmp_path / "rtmdet_tiny_8xb32-300e_coco.pth", tmp_path / "start.safetensors"
    done = cli("convert", source, target)
    assert done.code == 0, done.err
    assert "turned to RGB" in done.err
    assert f"use it as train.start={target}" in done.err
    network = build_network(load_config(rtmdet_files.RECIPE), 15)
    converted = load_start(network, target)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    assert sorted(converted.matched) == sorted(load_start(network, source).matched)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    done = cli("predict", tmp_path, "--weights", source)
    assert done.code == 2
    assert "found a detector without rotated boxes (mmdetection rtmdet)" in done.err
