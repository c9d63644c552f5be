"""What every backbone answers for, ours and timm's: maps, channels, frozen parts, and names that do not exist."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import small_config
from rotanext.errors import UserError
from rotanext.models.backbones import OUTPUT_STRIDES, BackboneConfig

NAMES = ["convnext_atto", "convnextv2_atto", "cspnext_tiny", "timm:resnet18", "timm:test_convnext", "timm:test_efficientnet"]


def section(which: str, /, **changes: Any) -> BackboneConfig:
    made = small_config(which).backbone
    return type(made).model_validate(made.model_dump() | changes)


def build(which: str, /, **changes: Any) -> Any:
    return section(which, **changes).build()


@pytest.mark.parametrize("name", NAMES)
def test_four_maps_at_strides_4_to_32(name: str) -> None:
    backbone = build(name)
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, OUTPUT_STRIDES, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_parameter_has_a_gradient(name: str) -> None:
    backbone = build(name, **({"layer_scale": 1.0} if name.startswith("convnext") else {})).train()
    for parameter in backbone.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0, 0.1)  # gains that start at zero would hide what is behind them
    sum((m * torch.randn_like(m)).sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_maps_nobody_uses_are_left_out(name: str) -> None:
    """After `leave_out(1)` the coarser maps give every trained parameter a gradient."""
    backbone = build(name, **({"layer_scale": 1.0} if name.startswith("convnext") else {})).train()
    backbone.leave_out(1)
    sum(m.square().sum() for m in backbone(torch.randn(2, 3, 64, 64))[1:]).backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []
    assert any(not p.requires_grad for p in backbone.parameters()) == name.startswith("convnext")


@pytest.mark.parametrize("name", ["convnext_atto", "cspnext_tiny", "timm:test_convnext", "timm:resnet18"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    plain, saving = build(name), build(name, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    kept: list[int] = []
    results: list[list[Tensor]] = []
    x = torch.randn(2, 3, 64, 64)
    for backbone in (plain, saving):
        held: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda v: held.append(v.numel()) or v, lambda v: v):  # noqa: B023
            maps = backbone.train()(x)
        kept.append(sum(held))
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in backbone.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize(
    ("stages", "trained"),
    [
        (0, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        (1, {"layer2", "layer3", "layer4"}),  # the stem goes with the first stage
        (3, {"layer4"}),
        (4, set()),
    ],
)
def test_frozen_stages(stages: int, trained: set[str]) -> None:
    backbone = build("timm:resnet18", frozen_stages=stages)
    assert {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_their_statistics(frozen: bool) -> None:
    backbone = build("timm:resnet18", frozen_norm=frozen).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    backbone(torch.randn(2, 3, 64, 64) + 3)
    same = [torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True)]
    assert same == [frozen] * len(norms)
    assert backbone.training
    assert all(norm.weight.requires_grad for norm in norms)  # gains are still trained
    assert not any(norm.training for norm in backbone.eval().modules())


def test_chance_of_leaving_blocks_out() -> None:
    blocks = [m for m in build("timm:test_convnext", drop_path=0.3).modules() if type(m).__name__ == "DropPath"]
    assert max(block.drop_prob for block in blocks) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "convnext_atto",
            {"name": "convnext_atom"},
            r"no ConvNeXt 'convnext_atom'; nearest: 'convnext_atto'; all: .*backbone\.kind=timm",
        ),
        ("convnext_atto", {"name": ""}, "no ConvNeXt ''; nearest: '"),
        (
            "cspnext_tiny",
            {"name": "cspnext_xl"},
            r"no CSPNeXt 'cspnext_xl'; nearest: 'cspnext_\w+'; all: cspnext_tiny, .*backbone\.kind=timm",
        ),
        ("timm:resnet18", {"name": "resnet81"}, r"timm has no model 'resnet81'; nearest: .*resnet"),
        ("timm:resnet18", {"name": "§§§"}, "nearest: none"),
        ("timm:resnet18", {"name": "test_vit"}, r"timm's test_vit has maps at strides \[16"),
        ("timm:resnet18", {"name": "test_vit3"}, r"test_vit3"),
        (
            "timm:resnet18",
            {"name": "vgg11", "drop_path": 0.2},
            r"timm's vgg11 gives no maps of features with .*0\.2.*another backbone",
        ),
    ],
    ids=["ours", "none", "ours, too", "timm", "nothing near", "strides", "transformer", "options"],
)
def test_backbones_that_cannot_be_had(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **changes)
