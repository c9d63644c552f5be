"""The names that layouts give to weights, and ours: told apart, mapped, compared."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotanext.checkpoints.layouts import (
    FORMAT_1,
    OURS,
    LoadReport,
    check_strict,
    detect_layout,
    find_state_dict,
    load_strict,
    map_keys,
)
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.errors import UserError


def test_authors_v2_shapes() -> None:
    """The V2 files hold GRN parameters as [1, 1, 1, C]."""
    mapped = map_keys("convnext", {"stages.0.0.grn.gamma": torch.ones(1, 1, 1, 160)})
    assert mapped["stages.0.0.grn.gamma"].shape == (160,)


def test_numpy_state_dict(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"a": np.ones((2, 2), np.float32)}}))
    weights = find_state_dict(read_tensors(tmp_path / "w.pkl"), "w.pkl")
    assert torch.equal(weights["a"], torch.ones(2, 2))


@pytest.mark.parametrize("content", [{}, {"meta": 1}, {"state_dict": {"a": 1}}, {"state_dict": {}}], ids=str)
def test_no_state_dict(content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="state dict"):
        find_state_dict(content, "w.pth")


def test_odd_arrays(tmp_path: Path) -> None:
    """NumPy arrays in the other byte order are numbers like any others; arrays of texts are no weights."""
    assert torch.equal(find_state_dict({"a": np.array([1, 2], ">f4")}, "w.pkl")["a"], torch.tensor([1.0, 2.0]))
    with pytest.raises(UserError, match="state dict"):
        find_state_dict({"a": np.array(["x"])}, "w.pkl")


@pytest.mark.parametrize(
    ("keys", "layout"),
    [
        (["backbone.a", "neck.output.0.weight", "head.b"], OURS),
        (["backbone.a", "fpn.output.0.weight", "head.b"], FORMAT_1),
        (["backbone.layer1.0.conv1.weight", "bbox_head.retina_cls.weight"], "mmrotate retinanet"),
        (["backbone.stages.0.0.depthwise_conv.weight"], "mmpretrain"),
        (["stages.0.0.depthwise_conv.weight"], "mmpretrain"),
        (["stages.0.0.dwconv.weight"], "convnext"),
        (["stages.0.blocks.0.conv_dw.weight"], "timm convnext"),
        (["layer1.0.conv1.weight"], "resnet"),
        (["body.layer1.0.conv1.weight"], "resnet"),
        (["backbone.a", "head.b"], None),  # a detector without a neck
        (["transformer.h.0.attn.weight"], None),
        ([], None),
    ],
    ids=str,
)
def test_layouts_are_told_apart(keys: list[str], layout: str | None) -> None:
    if layout is not None:
        assert detect_layout(dict.fromkeys(keys), "w.pth").name == layout
        return
    with pytest.raises(UserError, match=rf"w\.pth: found {len(keys)} keys such as .*another architecture"):
        detect_layout(dict.fromkeys(keys), "w.pth")


@pytest.mark.parametrize(
    ("layout", "theirs", "ours"),
    [
        (OURS, "neck.output.0.weight", "neck.output.0.weight"),
        (FORMAT_1, "fpn.output.0.weight", "neck.output.0.weight"),
        (FORMAT_1, "head.cls_tower.1.bias", "head.cls_convs.1.bias"),
        ("mmrotate retinanet", "neck.fpn_convs.2.conv.bias", "neck.output.2.bias"),
        ("mmrotate retinanet", "neck.fpn_convs.4.conv.bias", "neck.extra.1.bias"),
        ("mmrotate retinanet", "backbone.layer1.0.bn1.weight", "backbone.body.layer1.0.bn1.weight"),
        ("mmrotate retinanet", "bbox_head.reg_convs.3.conv.weight", "head.reg_convs.3.weight"),
        ("mmrotate retinanet", "bbox_head.retina_reg.bias", "head.reg_out.bias"),
        ("mmpretrain", "backbone.stages.1.2.pointwise_conv2.bias", "stages.1.2.pwconv2.bias"),
        ("mmpretrain", "backbone.norm3.weight", "norm.weight"),
        ("timm convnext", "stages.2.downsample.1.weight", "downsample_layers.2.1.weight"),
        ("timm convnext", "stages.2.blocks.7.mlp.grn.bias", "stages.2.7.grn.beta"),
        ("resnet", "layer3.1.conv2.weight", "body.layer3.1.conv2.weight"),
        ("resnet", "body.layer3.1.conv2.weight", "body.layer3.1.conv2.weight"),
    ],
)
def test_names_of_other_layouts(layout: str, theirs: str, ours: str) -> None:
    value = torch.arange(3.0)
    mapped = map_keys(layout, {theirs: value})
    assert list(mapped) == [ours]
    assert mapped[ours] is value


def test_1x1_convolutions_become_linear_layers() -> None:
    mapped = map_keys("mmpretrain", {"stages.0.0.pointwise_conv1.weight": torch.arange(6.0).reshape(3, 2, 1, 1)})
    assert torch.equal(mapped["stages.0.0.pwconv1.weight"], torch.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize("content", [{"state_dict": {"a": 1.0}}, {"model": {"a": 1.0}}, {"a": 1.0}, {"module.a": 1.0}], ids=str)
def test_where_the_weights_are(content: dict[str, Any]) -> None:
    def tensors(value: Any) -> Any:
        return {key: tensors(part) for key, part in value.items()} if isinstance(value, dict) else torch.tensor(value)

    assert find_state_dict(tensors(content), "w.pth") == {"a": torch.tensor(1.0)}


def test_only_a_prefix_of_all_keys_is_taken_off() -> None:
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert list(find_state_dict(mixed, "w.pth")) == ["module.a", "b"]


def test_weights_are_loaded_all_or_none() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    good = {key: torch.full_like(value, 3) for key, value in module.state_dict().items() if "num_batches" not in key}
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for change in ({"0.weight": torch.zeros(2, 3)}, {"2.weight": torch.zeros(1)}):
        with pytest.raises(UserError, match="exactly the model's tensors"):
            load_strict(module, good | change, "w.pth", "resnet")
    missing = {key: value for key, value in good.items() if key != "0.bias"}
    with pytest.raises(UserError, match=r"missing \(1\): 0\.bias"):
        load_strict(module, missing, "w.pth", "resnet")
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    report = load_strict(module, missing, "w.pth", "resnet", may_miss=("0.b",))
    assert "left at their initial values: 0.bias, 1.num_batches_tracked" in report.text()
    assert torch.equal(module[0].bias, before["0.bias"])
    assert torch.equal(module[0].weight, torch.full((2, 2), 3.0))


def test_comparing_needs_no_memory_and_changes_nothing() -> None:
    with torch.device("meta"):
        module = torch.nn.Linear(100_000, 100_000)
    weights = {key: torch.zeros(1).expand(value.shape) for key, value in module.state_dict().items()}
    assert check_strict(module, weights, "w.pth", "resnet").matched == ["weight", "bias"]


def test_a_report_names_the_first_keys_and_counts_the_rest() -> None:
    report = LoadReport("resnet", matched=["a"], unexpected=[f"k{i}" for i in range(11)], notes=["a note"])
    assert report.text().splitlines() == [
        "resnet layout: 1 tensors loaded",
        "  unexpected (11): k0, k1, k2, k3, k4, k5, k6, k7, ... 3 more",
        "  a note",
    ]
