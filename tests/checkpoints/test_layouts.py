"""Every published layout, strictness, and our own format."""

import functools
import json
import pickle
import resource
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import formula
from mmrotate_files import as_mmrotate
from networks import small_config, small_network
from places import GOLDEN
from rotanext.checkpoints.detectors import read_detector_file
from rotanext.checkpoints.layouts import find_state_dict, load_strict, map_keys
from rotanext.checkpoints.mmrotate import anchor_convention, check_angles
from rotanext.checkpoints.own import save_detector_file
from rotanext.checkpoints.pretrained import load_backbone
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.checkpoints.unpickle import Placeholder
from rotanext.errors import UserError
from rotanext.inference.detector import build_network
from rotanext.models.convnext import ConvNeXt
from rotanext.models.network import Network

CLASSES = ("plane", "ship")


@functools.cache
def golden_weights(file: str) -> dict[str, Tensor]:
    golden = json.loads((GOLDEN / file).read_text())
    weights = formula.state_dict(golden.get("shapes", golden), golden.get("salt", ""))
    return {name: torch.from_numpy(value) for name, value in weights.items()}


@pytest.fixture(scope="session")
def small() -> Network:
    """A small detector of our own whose weights all differ."""
    torch.manual_seed(1)
    model = small_network("convnext_atto", 2).to(memory_format=torch.contiguous_format)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


V0_META = {
    "mmrotate_version": "0.1.0+", "mmdet_version": "2.19.0", "mmcv_version": "1.4.0", "CLASSES": CLASSES, "epoch": 12,
    "iter": 76800, "config": "model = dict(type='RotatedRetinaNet')\n", "seed": np.int64(3), "time": "Sun Nov 22",
    "hook_msgs": {"best_score": np.float64(0.7449)}, "env_info": "sys.platform: linux",
}  # fmt: skip
V1_META = {
    "mmengine_version": "0.3.2", "dataset_meta": {"classes": CLASSES, "palette": [(165, 42, 42), (189, 183, 107)]},
    "experiment_name": "rotated-retinanet_20221122", "epoch": 12, "iter": 76800, "cfg": "model = dict()", "seed": 3,
}  # fmt: skip


# --- backbones


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


def test_authors_v2_shapes() -> None:
    """The V2 files hold GRN parameters as [1, 1, 1, C]."""
    mapped = map_keys("convnext", {"stages.0.0.grn.gamma": torch.ones(1, 1, 1, 160)})
    assert mapped["stages.0.0.grn.gamma"].shape == (160,)


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


# --- detectors


@pytest.mark.parametrize(
    ("file", "backbone"), [("convnext-tiny.json", ("convnext", "convnext_tiny")), ("r50.json", ("timm", "resnet50"))]
)
def test_golden_detectors(file: str, backbone: tuple[str, str], tmp_path: Path) -> None:
    weights = golden_weights(file)
    torch.save({"meta": V0_META | {"CLASSES": [f"c{i}" for i in range(15)]}, "state_dict": weights}, tmp_path / "d.pth")
    found = read_detector_file(tmp_path / "d.pth")
    parts = found.config.backbone.kind, found.config.backbone.name, found.config.neck.channels, found.config.head.stacked_convs
    assert (parts, found.num_classes) == ((*backbone, 256, 4), 15)
    assert found.config.head.anchors == "v0"
    assert len(found.weights) == len(weights)
    with torch.device("meta"):
        model = build_network(found.config, found.num_classes)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in found.weights.items()}
    assert torch.equal(found.weights["neck.extra.1.weight"], weights["neck.fpn_convs.4.conv.weight"])
    assert torch.equal(found.weights["head.cls_convs.3.bias"], weights["bbox_head.cls_convs.3.conv.bias"])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before-1.6"])
def test_v0_training_checkpoint(small: Network, tmp_path: Path, legacy: bool) -> None:
    weights = as_mmrotate(small.state_dict())
    weights["ema_backbone_norm0_weight"] = torch.zeros(40)
    weights._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(small.parameters())
    small(torch.zeros(1, 3, 64, 64))[0][0].sum().backward()
    optimizer.step = None  # type: ignore[assignment,method-assign]
    content = {"meta": V0_META, "state_dict": weights, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "epoch_12.pth", _use_new_zipfile_serialization=not legacy)
    found = read_detector_file(tmp_path / "epoch_12.pth")
    assert (found.config.head.anchors, found.class_names, found.config.backbone.name) == ("v0", CLASSES, "convnext_atto")
    assert any("ema_backbone_norm0_weight" in note for note in found.notes)
    assert any("anchors v0: mmrotate 0.1.0+" in note for note in found.notes)
    report = load_strict(small, found.weights, "epoch_12.pth", found.layout)
    assert len(report.matched) == len(small.state_dict())
    assert all(torch.equal(v, found.weights[k]) for k, v in small.state_dict().items())


@pytest.fixture
def mmengine_object() -> Iterator[Any]:
    """An instance of a class of a module that exists only while the file is written."""
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    cls = type("HistoryBuffer", (), {"__module__": name})
    module.HistoryBuffer = cls  # type: ignore[attr-defined]
    names = ["mmengine", "mmengine.logging", name]
    for part in names:
        sys.modules[part] = module
    instance = cls()
    instance._log_history = np.arange(4.0)
    instance._statistics_methods = {}
    yield instance
    for part in names:
        sys.modules.pop(part, None)


def test_v1_training_checkpoint(small: Network, tmp_path: Path, mmengine_object: Any) -> None:
    weights = as_mmrotate(small.state_dict())
    weights |= {"data_preprocessor.mean": torch.zeros(3, 1, 1), "data_preprocessor.std": torch.ones(3, 1, 1)}
    hub = {"log_scalars": OrderedDict({"train/loss": mmengine_object}), "runtime_info": {"iter": 5}}
    content = {"meta": V1_META, "state_dict": weights, "message_hub": hub, "param_schedulers": [{"last_step": 1}]}
    torch.save(content, tmp_path / "epoch_12.pth")
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        del sys.modules[name]
    found = read_detector_file(tmp_path / "epoch_12.pth")
    assert (found.config.head.anchors, found.class_names) == ("v1", CLASSES)
    assert any("data_preprocessor.mean" in note for note in found.notes)
    buffer = read_tensors(tmp_path / "epoch_12.pth")["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(buffer, Placeholder)
    assert buffer.name == "mmengine.logging.history_buffer.HistoryBuffer"
    assert buffer.state["_log_history"].tolist() == [0, 1, 2, 3]
    assert "mmengine" not in sys.modules


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


@pytest.mark.parametrize(("meta", "change", "named"), [
    (V0_META | {"CLASSES": ("one",)}, lambda sd: None, "1 class names"),
    (V0_META, lambda sd: sd.pop("bbox_head.retina_cls.weight"), "no head or no FPN"),
    (V0_META, lambda sd: sd.pop("neck.fpn_convs.0.conv.weight"), "no head or no FPN"),
    (V0_META, lambda sd: sd.pop("backbone.stages.2.5.gamma"), None),  # found when loaded into the model
    (V0_META, lambda sd: [sd.pop(k) for k in list(sd) if "backbone.stages.2.5" in k], "a ConvNeXt of (2, 2, 5, 2)"),
], ids=["classes", "head", "fpn", "one-key", "block"])  # fmt: skip
def test_detector_refused(
    small: Network, tmp_path: Path, meta: dict[str, Any], change: Callable[..., Any], named: str | None
) -> None:
    weights = as_mmrotate(small.state_dict())
    change(weights)
    torch.save({"meta": meta, "state_dict": weights}, tmp_path / "d.pth")
    if named is None:
        found = read_detector_file(tmp_path / "d.pth")
        with pytest.raises(UserError, match=r"missing \(1\): backbone.stages.2.5.gamma"):
            load_strict(small, found.weights, "d.pth", found.layout)
        return
    with pytest.raises(UserError) as error:
        read_detector_file(tmp_path / "d.pth")
    assert named in str(error.value)


# --- our own format


def test_own_format(small: Network, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "best.safetensors"
    config = small_config("convnext_atto", "head.anchors=v1")
    save_detector_file(path, small.state_dict(), config, CLASSES)
    found = read_detector_file(path)
    assert (found.layout, found.class_names, found.config) == ("rotanext detector", CLASSES, config)
    assert all(torch.equal(v, found.weights[k]) for k, v in small.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["best.safetensors"]


def test_full_disk_keeps_the_last_file(small: Network, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_detector_file(path, {"head.cls_out.weight": torch.ones(2)}, small_config(), CLASSES)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # every write beyond this fails, as on a full disk
    try:
        with pytest.raises(UserError, match=r"best\.safetensors"):
            save_detector_file(path, small.state_dict(), small_config(), CLASSES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("change", [
    {"format": 3}, {"box_convention": "le135"}, {"class_names": None}, {"class_names": [1, 2]}, {"config": None},
], ids=str)  # fmt: skip
def test_own_format_checked(small: Network, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "d.safetensors"
    save_detector_file(path, small.state_dict(), small_config(), CLASSES)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["rotanext"])
    save_file(small.state_dict(), path, {"rotanext": json.dumps(header | change)})
    with pytest.raises(UserError, match=r"d\.safetensors.*expected a rotanext detector"):
        read_detector_file(path)
    save_file(small.state_dict(), path)
    with pytest.raises(UserError, match="no readable header"):
        read_detector_file(path)


def test_numpy_state_dict(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"a": np.ones((2, 2), np.float32)}}))
    weights = find_state_dict(read_tensors(tmp_path / "w.pkl"), "w.pkl")
    assert torch.equal(weights["a"], torch.ones(2, 2))


@pytest.mark.parametrize("content", [{}, {"meta": 1}, {"state_dict": {"a": 1}}, {"state_dict": {}}], ids=str)
def test_no_state_dict(content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="state dict"):
        find_state_dict(content, "w.pth")


def test_missing_backbone_file() -> None:
    with pytest.raises(UserError, match=r"none\.pth"):
        load_backbone(ConvNeXt("convnext_atto"), "none.pth")


@pytest.mark.parametrize(("text", "accepted"), [("angle_version = 'le90'", True), ("angle_version = 'oc'", False), ("", True)])
def test_another_angle_version_is_refused(text: str, accepted: bool) -> None:
    """Detectors for other conventions have the same tensors; only the configuration in the metadata tells."""
    content = {"meta": {"config": text}}
    if accepted:
        assert "le90" in check_angles(content, "epoch_12.pth")
    else:
        with pytest.raises(UserError, match="angle version oc"):
            check_angles(content, "epoch_12.pth")


def test_odd_arrays(tmp_path: Path) -> None:
    """NumPy arrays in the other byte order are numbers like any others; arrays of texts are no weights."""
    assert torch.equal(find_state_dict({"a": np.array([1, 2], ">f4")}, "w.pkl")["a"], torch.tensor([1.0, 2.0]))
    with pytest.raises(UserError, match="state dict"):
        find_state_dict({"a": np.array(["x"])}, "w.pkl")


def test_a_bottomless_header(small: Network, tmp_path: Path) -> None:
    save_file(small.state_dict(), tmp_path / "d.safetensors", {"rotanext": "[" * 100_000})
    with pytest.raises(UserError, match="no readable header"):
        read_detector_file(tmp_path / "d.safetensors")
