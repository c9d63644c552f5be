"""What checkpoints of MMRotate tell of their detectors: anchors, angles, architecture, class names."""

from typing import Any

import pytest
import torch

from rotanext.checkpoints.mmrotate import (
    PUBLISHED,
    RESNETS,
    anchor_convention,
    check_angles,
    class_names,
    config_values,
    infer_backbone,
)
from rotanext.config import recipe_values, validate
from rotanext.errors import UserError
from rotanext.models.convnext import VARIANTS
from rotanext.models.network import Network


@pytest.mark.parametrize(("content", "override", "expected"), [
    ({"meta": {"mmrotate_version": "0.3.4"}}, None, "v0"),
    ({"meta": {"mmrotate_version": "1.0.0rc1"}}, None, "v1"),
    ({"meta": {"mmdet_version": "2.25.1"}}, None, "v0"),
    ({"meta": {"mmdet_version": "3.0.0"}}, None, "v1"),
    ({"meta": {"mmcv_version": "1.6.0", "CLASSES": ("a",)}}, None, "v0"),
    ({"meta": {"CLASSES": ("a",)}}, None, "v0"),
    ({"meta": {"mmengine_version": "0.1.0"}}, None, "v1"),
    ({"meta": {"dataset_meta": {"classes": ("a",)}}}, None, "v1"),
    ({"meta": {"experiment_name": "x"}}, None, "v1"),
    ({"message_hub": {}}, None, "v1"),
    ({"meta": {}}, None, None),
    ({}, None, None),
    ({"meta": "text"}, None, None),
    ({"meta": {"mmrotate_version": "0.3.4", "mmengine_version": "0.1.0"}}, None, None),  # contradiction
    ({}, "v1", "v1"),
    ({"meta": {"mmrotate_version": "0.3.4"}}, "v1", "v1"),  # the user knows better
])  # fmt: skip
def test_anchor_convention(content: dict[str, Any], override: Any, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(UserError, match=r"anchors v0 .* or v1"):
            anchor_convention(content, "x.pth", override)
    else:
        assert anchor_convention(content, "x.pth", override)[0] == expected


@pytest.mark.parametrize(("text", "accepted"), [("angle_version = 'le90'", True), ("angle_version = 'oc'", False), ("", True)])
def test_another_angle_version_is_refused(text: str, accepted: bool) -> None:
    """Detectors for other conventions have the same tensors; only the configuration in the metadata tells."""
    content = {"meta": {"config": text}}
    if accepted:
        assert "le90" in check_angles(content, "epoch_12.pth")
    else:
        with pytest.raises(UserError, match="angle version oc"):
            check_angles(content, "epoch_12.pth")


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
    assert class_names({"meta": meta}) == expected


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


def test_the_recipe_takes_on_the_architecture_of_the_weights(small: Network) -> None:
    recipe = recipe_values(PUBLISHED["convnext"])
    values = config_values(small.state_dict(), "v1", "w.pth")
    config = validate(values, "w.pth")
    assert (config.backbone.name, config.backbone.weights, config.data.classes) == ("convnext_atto", "", "auto")
    assert (config.neck.channels, config.head.stacked_convs, config.head.anchors) == (8, 1, "v1")
    assert values["train"] == recipe["train"]
    assert values["head"]["anchor_scale"] == recipe["head"]["anchor_scale"]


@pytest.mark.parametrize(("meta", "said"), [
    ({"config": "angle_version = 'le90'"}, "from its configuration"),
    ({"cfg": "angle_range=\"le90\""}, "from its configuration"),
    ({"config": {"angle_version": "oc"}}, "assumed"),  # no text: nothing is taken from objects
    ({}, "assumed"),
], ids=str)  # fmt: skip
def test_what_is_said_of_angles(meta: dict[str, Any], said: str) -> None:
    assert said in check_angles({"meta": meta}, "w.pth")
