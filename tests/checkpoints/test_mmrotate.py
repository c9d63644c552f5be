"""What checkpoints of the MM toolboxes tell, whatever the family: angles, colours, backbone, class names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rotanext.checkpoints.layout import Checkpoint
from rotanext.checkpoints.mmrotate import RESNETS, check_angles, class_names, configuration, in_rgb, infer_backbone
from rotanext.errors import UserError
from rotanext.models import cspnext
from rotanext.models.convnext import VARIANTS


def file(content: dict[str, Any], weights: dict[str, torch.Tensor] | None = None) -> Checkpoint:
    return Checkpoint(Path("epoch_12.pth"), weights or {}, content)


@pytest.mark.parametrize(("text", "accepted"), [("angle_version = 'le90'", True), ("angle_version = 'oc'", False), ("", True)])
def test_another_angle_version_is_refused(text: str, accepted: bool) -> None:
    """Detectors for other conventions have the same tensors; only the configuration in the metadata tells."""
    content = {"meta": {"config": text}}
    if accepted:
        assert "le90" in check_angles(file(content))
    else:
        with pytest.raises(UserError, match="angle version oc"):
            check_angles(file(content))


@pytest.mark.parametrize(("meta", "expected"), [
    ({"CLASSES": ("a", "b")}, ("a", "b")),
    ({"CLASSES": ["a"]}, ("a",)),
    ({"dataset_meta": {"classes": ("a", "b")}}, ("a", "b")),
    ({"dataset_meta": {"CLASSES": ["b"]}}, ("b",)),
    ({"dataset_meta": {}}, None),
    ({"CLASSES": "plane"}, None),  # a text is no list of names
    ({"CLASSES": (1, 2)}, None),
    ({}, None),
    ("text", None),
], ids=str)  # fmt: skip
def test_class_names(meta: Any, expected: tuple[str, ...] | None) -> None:
    assert class_names(file({"meta": meta})) == expected


def keys(depths: tuple[int, ...], first: int, form: str) -> list[str]:
    """A key of every block of a backbone whose stages are counted from `first`."""
    return [form.format(stage + first, block) for stage, depth in enumerate(depths) for block in range(depth)]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_convnext_is_known_by_its_blocks_and_widths(name: str) -> None:
    depths, widths, generation = VARIANTS[name]
    weights = {key: torch.zeros(1) for key in keys(depths, 0, "backbone.stages.{}.{}.norm.weight")}
    weights |= {f"backbone.stages.{stage}.0.dwconv.weight": torch.zeros(width, 1, 7, 7) for stage, width in enumerate(widths)}
    if generation == 2:
        weights["backbone.stages.0.0.grn.gamma"] = torch.zeros(widths[0])
    assert infer_backbone(weights, "w.pth") == ("convnext", name)
    weights["backbone.stages.3.0.dwconv.weight"] = torch.zeros(7, 1, 7, 7)
    with pytest.raises(UserError, match=r"w\.pth: found a ConvNeXt of .* blocks and .*7\) channels"):
        infer_backbone(weights, "w.pth")


@pytest.mark.parametrize(("shape", "name"), RESNETS.items(), ids=RESNETS.values())
def test_every_resnet_is_known_by_its_blocks_and_bottlenecks(shape: tuple[tuple[int, ...], bool], name: str) -> None:
    depths, bottleneck = shape
    weights = dict.fromkeys(keys(depths, 1, "backbone.body.layer{}.{}.conv1.weight"), torch.zeros(1))
    if bottleneck:
        weights["backbone.body.layer1.0.conv3.weight"] = torch.zeros(1)
    assert infer_backbone(weights, "w.pth") == ("timm", name)
    with pytest.raises(UserError, match="a published ConvNeXt or ResNet"):
        infer_backbone(weights | {"backbone.body.layer4.9.conv1.weight": torch.zeros(1)}, "w.pth")


@pytest.mark.parametrize(("meta", "said"), [
    ({"config": "angle_version = 'le90'"}, "from its configuration"),
    ({"cfg": "angle_range=\"le90\""}, "from its configuration"),
    ({"config": {"angle_version": "oc"}}, "assumed"),  # no text: nothing is taken from objects
    ({}, "assumed"),
], ids=str)  # fmt: skip
def test_what_is_said_of_angles(meta: dict[str, Any], said: str) -> None:
    assert said in check_angles(file({"meta": meta}))


@pytest.mark.parametrize(("meta", "values"), [
    ({"cfg": "a = dict(b=1)"}, {"a": {"b": 1}}),
    ({"config": "a = 1"}, {}),  # of 0.x
    ({"cfg": {"a": 1}}, {}),
    ({}, {}),
], ids=str)  # fmt: skip
def test_the_configuration(meta: dict[str, Any], values: dict[str, Any]) -> None:
    assert configuration(file({"meta": meta})) == values


FIRST = ("backbone.stem.0.conv.weight", "stem.0.conv.weight", "downsample_layers.0.0.weight", "backbone.conv1.weight")
BGR = "mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]"
AS_RGB = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]"


@pytest.mark.parametrize(("cfg", "usual", "turned"), [
    ("", "BGR", True),
    ("", "RGB", False),
    (f"model = dict(data_preprocessor=dict({BGR}, bgr_to_rgb=False))", "RGB", True),
    (f"model = dict(data_preprocessor=dict({AS_RGB}, bgr_to_rgb=True))", "BGR", False),
    (f"data_preprocessor = dict({BGR}, bgr_to_rgb=False)", "RGB", True),
    (f"data_preprocessor = dict({BGR}, bgr_to_rgb='no')", "BGR", True),
    ("data_preprocessor = 'none'", "RGB", False),
    (f"data_preprocessor = dict({BGR})", "RGB", None),
    (f"data_preprocessor = dict({AS_RGB}, bgr_to_rgb=False)", "BGR", None),
    ("data_preprocessor = dict(mean=[0.0, 0.0, 0.0])", "BGR", None),
    ("data_preprocessor = dict(mean=[103.53])", "BGR", None),
    ("data_preprocessor = dict(std=1.0)", "RGB", None),
], ids=str)  # fmt: skip
def test_colours(cfg: str, usual: str, turned: bool | None) -> None:
    """`turned`: None for pixels that were normalised by other numbers."""
    weights = {key: torch.arange(54.0).reshape(2, 3, 3, 3) for key in FIRST} | {"backbone.norm.weight": torch.ones(3)}
    checkpoint = file({"meta": {"cfg": cfg}}, weights)
    if turned is None:
        with pytest.raises(UserError, match=r"epoch_12\.pth: found (mean|std)"):
            in_rgb(checkpoint, usual)
        return
    found = in_rgb(checkpoint, usual)
    assert bool(found.notes) == turned
    for key in FIRST:
        assert torch.equal(found.weights[key], weights[key][:, [2, 1, 0]] if turned else weights[key])
    assert found.weights["backbone.norm.weight"] is weights["backbone.norm.weight"]


@pytest.mark.parametrize("name", cspnext.VARIANTS)
def test_every_cspnext_is_known_by_its_blocks_and_stem(name: str) -> None:
    size = cspnext.VARIANTS[name]
    weights = {"backbone.stem.2.conv.weight": torch.zeros(size.channels(64), 1, 1, 1)}
    for stage, (_, count) in enumerate(cspnext.STAGES, 1):
        for block in range(size.blocks(count)):
            weights[f"backbone.stage{stage}.{1 + (stage == 4)}.blocks.{block}.conv1.conv.weight"] = torch.zeros(1)
    assert infer_backbone(weights, "w.pth") == ("cspnext", name)
    for odd in (torch.zeros(7, 1, 1, 1), torch.tensor(1.0)):
        with pytest.raises(UserError, match=r"w\.pth: found a CSPNeXt of .* and a stem of (7|0) channels"):
            infer_backbone(weights | {"backbone.stem.2.conv.weight": odd}, "w.pth")
