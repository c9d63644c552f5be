"""RTMDet of the MM toolboxes: every key and shape, what stands three times, colours, and what the configuration tells."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rotanext.checkpoints.detectors import PartsFile, filled_network, read_detector_file, read_weights
from rotanext.checkpoints.layouts import map_keys
from rotanext.data.dota import CLASS_LISTS
from rotanext.errors import UserError
from rtmdet_files import CFG, META, SIZES, coco, our_name, shapes, weights, write

STEM = "backbone.stem.0.conv.weight"


@pytest.mark.parametrize("which", [*SIZES, "convnext-tiny_pafpn"])
def test_every_key_and_shape(which: str) -> None:
    theirs = weights(which)
    ours = map_keys("mmrotate rtmdet", theirs)
    norm0 = {"backbone.norm0.weight", "backbone.norm0.bias"} if which.startswith("convnext") else set()
    assert ours.keys() - norm0 == {our_name(key) for key in theirs}
    assert len(ours) - len(norm0) == len(theirs) - 8  # of four convolutions two more copies each
    for key, value in theirs.items():
        expected = value.flatten(1) if "pointwise_conv" in key and "stages" in key and value.ndim == 4 else value
        if key in (STEM, "backbone.downsample_layers.0.0.weight"):
            expected = torch.stack([value[:, 2], value[:, 1], value[:, 0]], 1)
        assert torch.equal(ours[our_name(key)], expected), key


@pytest.mark.parametrize(
    ("which", "backbone", "neck", "exponential"),
    [
        ("tiny", ("cspnext", "cspnext_tiny"), (96, 1), False),
        ("s", ("cspnext", "cspnext_s"), (128, 1), False),
        ("m", ("cspnext", "cspnext_m"), (192, 2), True),
        ("l", ("cspnext", "cspnext_l"), (256, 3), True),
        ("convnext-tiny_pafpn", ("convnext", "convnext_tiny"), (192, 1), True),
    ],
)
def test_a_file_without_a_configuration(
    which: str, backbone: tuple[str, str], neck: tuple[int, int], exponential: bool, tmp_path: Path
) -> None:
    """The architecture is that of the shapes; what no shape tells is as published, and is said."""
    path = write(tmp_path / "e.pth", weights(which), {key: value for key, value in META.items() if key != "cfg"})
    found = read_detector_file(path)
    config: Any = found.config
    assert (found.layout, found.num_classes, found.class_names) == ("mmrotate rtmdet", 15, CLASS_LISTS["dota1.0"])
    assert (config.backbone.kind, config.backbone.name) == backbone
    assert (config.neck.kind, config.neck.channels, config.neck.blocks) == ("pafpn", *neck)
    assert (config.head.kind, config.head.stacked_convs, config.head.exponential) == ("rtmdet", 2, exponential)
    assert (config.predict.tile, config.predict.score_threshold, config.predict.max_detections) == (1024, 0.05, 2000)
    notes = "\n".join(found.notes)
    assert f"assumed, as published for {backbone[1]}" in notes
    assert "trained on BGR (assumed" in notes
    assert "sizes, scores and NMS as published" in notes
    network, report = filled_network(config, 15, found.weights, path, found.layout)
    assert not report.notes
    assert len(report.matched) == len(network.state_dict())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before-1.6"])
def test_a_trainings_checkpoint(legacy: bool, tmp_path: Path) -> None:
    found = read_detector_file(write(tmp_path / "epoch_36.pth", weights("tiny"), legacy=legacy))
    config: Any = found.config
    assert config.head.exponential is False
    assert (config.predict.max_detections, config.predict.top_k, config.predict.iou_threshold) == (1500, 1000, 0.1)
    assert (config.data.image_size, config.data.classes) == (1024, "auto")
    assert found.notes == [
        "trained on BGR (from its configuration): the first convolution's channels are turned to RGB",
        "ignored: ema_state_dict, the weights before averaging; those in state_dict are the average",
        "distances are the outputs themselves: from its configuration",
        "angles le90: from its configuration",
        "from its configuration: predict.score_threshold=0.05, predict.top_k=1000, predict.iou_threshold=0.1, "
        "predict.max_detections=1500, predict.tile=1024, predict.overlap=200",
        "not needed for detecting: message_hub, optimizer, param_schedulers",
    ]
    assert torch.equal(found.weights[STEM], weights("tiny")[STEM].flip(1))


def meta(*changes: tuple[str, str], **others: Any) -> dict[str, Any]:
    """The metadata with texts of the configuration replaced, and with other entries; None takes one out."""
    cfg = CFG
    for old, new in changes:
        assert old in cfg
        cfg = cfg.replace(old, new)
    return {key: value for key, value in ({**META, "cfg": cfg} | others).items() if value is not None}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (meta(("exp_on_reg=False", "exp_on_reg=True")), {"head.exponential": True}),
        (meta(("exp_on_reg=False", "exp_on_reg=some_name")), {"head.exponential": False}),  # no literal: as published
        (meta(("1024,\n        1024", "800, 512")), {"data.image_size": 800, "predict.tile": 800, "predict.overlap": 156}),
        (meta(("score_thr=0.05", "score_thr=0")), {"predict.score_threshold": 0.0}),
        (meta(("max_per_img=1500", "max_per_img=-1")), {"predict.max_detections": 2000}),
        (meta(("'mmdet.Resize'", "'mmdet.Other'")), {"data.image_size": 1024, "predict.tile": 1024}),
        (meta(cfg="no Python ("), {"predict.top_k": 2000, "head.exponential": False}),
        (meta(cfg={"model": 1}), {"predict.top_k": 2000}),
    ],
    ids=["exp", "no-literal", "sizes", "integer", "negative", "no-resize", "no-python", "no-text"],
)
def test_values_of_the_configuration(given: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    config = read_detector_file(write(tmp_path / "e.pth", weights("tiny"), given)).config
    values = config.model_dump()
    assert {key: values[key.split(".")[0]][key.split(".")[1]] for key in expected} == expected


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (meta(dataset_meta={"CLASSES": CLASS_LISTS["dota1.0"]}), CLASS_LISTS["dota1.0"]),  # 1.0.0rc0
        (meta(dataset_meta=None), None),
    ],
)
def test_class_names(given: dict[str, Any], names: tuple[str, ...] | None, tmp_path: Path) -> None:
    assert read_detector_file(write(tmp_path / "e.pth", weights("tiny"), given)).class_names == names


RGB = (("bgr_to_rgb=False", "bgr_to_rgb=True"), ("103.53,\n            116.28,\n            123.675", "123.675, 116.28, 103.53"),
       ("57.375,\n            57.12,\n            58.395", "58.395, 57.12, 57.375"))  # fmt: skip


def test_a_network_for_rgb_stays_as_it_is(tmp_path: Path) -> None:
    """As ConvNeXt backbones are used elsewhere: the configuration decides, not the family."""
    found = read_detector_file(write(tmp_path / "e.pth", weights("tiny"), meta(*RGB)))
    assert torch.equal(found.weights[STEM], weights("tiny")[STEM])
    assert not any("BGR" in note for note in found.notes)


def _drop(*parts: str) -> Callable[[dict[str, Tensor]], None]:
    def drop(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if any(part in key for part in parts)]:
            del state[key]

    return drop


def _change(key: str, value: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.update({key: value(state[key])})


TOWER = "bbox_head.reg_convs.2.1.conv.weight"


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (_change(TOWER, lambda t: t + 1e-6), None, rf"{TOWER} that differs from bbox_head\.reg_convs\.0\.1\.conv\.weight"),
        (_change(TOWER, lambda t: t[:1]), None, f"{TOWER} that differs"),
        (_drop("neck."), None, "no whole head or no PAFPN"),
        (_drop("rtm_reg.2"), None, "no whole head or no PAFPN"),
        (_drop("rtm_ang"), None, r"a detector without rotated boxes \(mmdetection rtmdet\)"),
        (_change("bbox_head.rtm_ang.0.bias", lambda t: torch.zeros(180)), None, "angles of 180 numbers"),
        (_change("bbox_head.rtm_ang.0.bias", lambda t: torch.tensor(0.0)), None, "angles of 0 numbers"),
        (_drop("stage3.1.blocks"), None, r"a CSPNeXt of \(1, 1, 0, 1\) blocks and a stem of 24 channels; expected cspnext_tiny"),
        (_change("backbone.stem.2.conv.weight", lambda t: torch.zeros(80, 12, 3, 3)), None, "a stem of 80 channels"),  # RTMDet-x
        (_change(STEM, lambda t: torch.full_like(t, float("nan"))), None, "1 tensors with NaN"),
        (lambda state: None, meta(("num_classes=15", "num_classes=16")), "a configuration for 16 classes; expected 15"),
        (lambda state: None, meta(("angle_version = 'le90'", "angle_version = 'oc'")), "angle version le90, oc"),
        (lambda state: None, meta(("bgr_to_rgb=False", "bgr_to_rgb=True")), r"mean \[103\.53, .*; expected .*\(RGB\)"),
        (lambda state: None, meta(("57.375", "1.0")), r"std \[1\.0"),
        (lambda state: None, meta(("score_thr=0.05", "score_thr=7")), "predict.score_threshold = 7"),
        (lambda state: None, meta(dataset_meta={"classes": ("a",)}), "1 class names"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over(
    change: Callable[[dict[str, Tensor]], None], given: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    state = weights("tiny")
    change(state)
    with pytest.raises(UserError, match=message):
        read_detector_file(write(tmp_path / "e.pth", state, given))


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_a_file_may_hold_shared_convolutions_once(level: str) -> None:
    """As it is where a program saved tied tensors once, under any of their names."""
    copies = re.compile(rf"bbox_head\.(cls|reg)_convs\.[^{level}]\.\d\.conv\.weight")
    state = {key: value for key, value in weights("tiny").items() if not copies.match(key)}
    assert len(state) == len(weights("tiny")) - 8
    assert map_keys("mmrotate rtmdet", state).keys() == map_keys("mmrotate rtmdet", weights("tiny")).keys()


def test_anchors_are_none_of_its(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a rotated RTMDet, which has no anchors.*Leave out --anchors"):
        read_detector_file(write(tmp_path / "e.pth", weights("tiny")), "v1")


def test_a_plain_pyramid_is_another_architecture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a plain FPN; expected a rotated RTMDet on a PAFPN"):
        read_detector_file(write(tmp_path / "e.pth", weights("convnext-tiny_fpn")))


def test_a_horizontal_detector(tmp_path: Path) -> None:
    found = read_weights(write(tmp_path / "rtmdet_tiny_8xb32-300e_coco.pth", coco("tiny")))
    assert isinstance(found, PartsFile)
    assert (found.layout, found.whole) == ("mmdetection rtmdet", True)
    assert found.weights.keys() == {our_name(key) for key in shapes("tiny") if "rtm_ang" not in key}
    assert torch.equal(found.weights[STEM], weights("tiny")[STEM].flip(1))
