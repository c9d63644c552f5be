"""Whole detectors from files: checkpoints as MMRotate 0.x and 1.x write them, and what is refused."""

import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from formula import golden_weights
from mmrotate_files import V0_META, V1_META, as_mmrotate
from networks import small_config
from rotanext.checkpoints.detectors import PartsFile, read_detector_file, read_weights
from rotanext.checkpoints.layouts import load_strict
from rotanext.checkpoints.own import save_detector_file
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.checkpoints.unpickle import Placeholder
from rotanext.errors import UserError
from rotanext.inference.detector import build_network
from rotanext.models.convnext import ConvNeXt
from rotanext.models.network import Network

CLASSES = ("plane", "ship")


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
    content = {
        "meta": V1_META,
        "state_dict": weights,
        "message_hub": hub,
        "param_schedulers": [{"last_step": 1}],
        "ema_state_dict": {},
    }
    torch.save(content, tmp_path / "epoch_12.pth")
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        del sys.modules[name]
    found = read_detector_file(tmp_path / "epoch_12.pth")
    assert (found.config.head.anchors, found.class_names) == ("v1", CLASSES)
    assert any("data_preprocessor.mean" in note for note in found.notes)
    assert any("ignored: ema_state_dict" in note for note in found.notes)
    buffer = read_tensors(tmp_path / "epoch_12.pth")["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(buffer, Placeholder)
    assert buffer.name == "mmengine.logging.history_buffer.HistoryBuffer"
    assert buffer.state["_log_history"].tolist() == [0, 1, 2, 3]
    assert "mmengine" not in sys.modules


@pytest.mark.parametrize(("meta", "change", "named"), [
    (V0_META | {"CLASSES": ("one",)}, lambda sd: None, "1 class names"),
    (V0_META, lambda sd: sd.pop("bbox_head.retina_cls.weight"), "no head or no FPN"),
    (V0_META, lambda sd: sd.pop("neck.fpn_convs.0.conv.weight"), "no head or no FPN"),
    (V0_META, lambda sd: sd.update({"neck.fpn_convs.0.conv.weight": torch.zeros(())}), "no head or no FPN"),
    (V0_META, lambda sd: sd.pop("backbone.stages.2.5.gamma"), None),  # found when loaded into the model
    (V0_META, lambda sd: [sd.pop(k) for k in list(sd) if "backbone.stages.2.5" in k], "a ConvNeXt of (2, 2, 5, 2)"),
], ids=["classes", "head", "fpn", "fpn-scalar", "one-key", "block"])  # fmt: skip
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


def test_a_backbones_file_is_no_detector(tmp_path: Path) -> None:
    weights = ConvNeXt("convnext_atto").state_dict()
    torch.save({"model": weights}, tmp_path / "b.pth")
    found = read_weights(tmp_path / "b.pth")
    assert isinstance(found, PartsFile)
    assert (found.layout, found.weights.keys()) == ("convnext", weights.keys())
    with pytest.raises(UserError, match=r"b\.pth: found backbone weights \(convnext\); expected a whole detector"):
        read_detector_file(tmp_path / "b.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_weights_of_a_training_that_diverged(small: Network, value: float, tmp_path: Path) -> None:
    weights = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    for key in ("head.cls_out.bias", "neck.output.0.weight"):
        weights[key].view(-1)[0] = value
    save_detector_file(tmp_path / "w.safetensors", weights, small_config(), CLASSES)
    with pytest.raises(UserError, match="found 2 tensors with NaN or infinity"):
        read_weights(tmp_path / "w.safetensors")


def test_anchors_as_asked(small: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They win over what the file says, in our own files and in those of MMRotate; a contradiction is told, and nothing else."""
    save_detector_file(tmp_path / "w.safetensors", small.state_dict(), small_config("convnext_atto", "head.anchors=v1"), CLASSES)
    assert read_detector_file(tmp_path / "w.safetensors").config.head.anchors == "v1"
    assert read_detector_file(tmp_path / "w.safetensors", "v1").config.head.anchors == "v1"
    assert caplog.messages == []
    assert read_detector_file(tmp_path / "w.safetensors", "v0").config.head.anchors == "v0"
    (said,) = caplog.messages
    assert said.startswith("w.safetensors: anchors v0 are asked for, but the file says v1 (its configuration).")
    caplog.clear()
    torch.save({"meta": V0_META, "state_dict": as_mmrotate(small.state_dict())}, tmp_path / "d.pth")
    found = read_detector_file(tmp_path / "d.pth", "v1")
    assert found.config.head.anchors == "v1"
    assert "anchors v1: as asked" in found.notes
    (said,) = caplog.messages
    assert said.startswith("d.pth: anchors v1 are asked for, but the file says v0 (mmrotate 0.1.0")
    caplog.clear()
    assert read_detector_file(tmp_path / "d.pth", "v0").config.head.anchors == "v0"
    torch.save({"state_dict": as_mmrotate(small.state_dict())}, tmp_path / "untold.pth")
    assert read_detector_file(tmp_path / "untold.pth", "v1").config.head.anchors == "v1"
    assert caplog.messages == []
