"""oriented-det's RTMDet: outputs for each level, factors and epsilon in the weights, what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import oriented_det_files as files
from rotanext.checkpoints.detectors import filled_network, read_detector_file
from rotanext.errors import UserError


@pytest.mark.parametrize("legacy", [False, True])
def test_the_network(legacy: bool, tmp_path: Path) -> None:
    state = files.rtmdet()
    found = read_detector_file(files.write(tmp_path, state, {"model": {"rtmdet_nms_pre": 30000}}, legacy=legacy))
    config: Any = found.config
    assert (found.layout, config.backbone.name, config.backbone.style) == ("oriented-det rtmdet", "cspnext_tiny", "oriented-det")
    assert (config.neck.channels, config.neck.blocks, config.head.offset, config.head.exponential) == (96, 1, 0.5, True)
    assert config.predict.top_k == 30000
    filled_network(config, 3, found.weights, tmp_path, found.layout)
    theirs, ours = "backbone.body.stage1.1.blocks.0.conv2.depthwise.bn.", "backbone.stage1.1.blocks.0.conv2.depthwise_conv.bn."
    assert torch.equal(found.weights[f"{ours}weight"], state[f"{theirs}weight"])
    assert torch.allclose(found.weights[f"{ours}running_var"] + 1e-5, state[f"{theirs}running_var"] + 1e-3)
    assert torch.equal(found.weights["head.reg_norms.2.1.bias"], state["head.reg_convs.1.bns.2.bias"])
    assert torch.equal(found.weights["head.cls_convs.1.weight"], state["head.cls_convs.1.conv.weight"])


@pytest.mark.parametrize(("model", "weights", "added"), [
    ({}, (1, 2, 3), (0, 0, 0)),
    ({"rtmdet_exp_on_reg": False}, (1, 2, 3), (0, 0, 0)),
    ({"rtmdet_norm_on_bbox": False}, (1, 2, 3), (-math.log(8), -math.log(16), -math.log(32))),
    ({"rtmdet_norm_on_bbox": False, "rtmdet_exp_on_reg": False}, (1 / 8, 2 / 16, 3 / 32), (0, 0, 0)),
], ids=str)  # fmt: skip
def test_outputs_of_each_level(model: dict[str, Any], weights: tuple[float, ...], added: tuple[float, ...], tmp_path: Path) -> None:
    """The factors of levels are 1, 2 and 3, that of the angle is a half."""
    state = files.rtmdet()
    found = read_detector_file(files.write(tmp_path, state, {"model": model}))
    for level, (factor, more) in enumerate(zip(weights, added, strict=True)):
        ours = {
            part: [found.weights[f"head.{part}_out.{level}.{leaf}"] for leaf in ("weight", "bias")]
            for part in ("cls", "reg", "ang")
        }
        theirs = {part: [state[f"head.rtm_{part}.{leaf}"] for leaf in ("weight", "bias")] for part in ("cls", "reg", "angle")}
        assert all(torch.equal(a, b) for a, b in zip(ours["cls"], theirs["cls"], strict=True))
        assert all(torch.equal(a, 0.5 * b) for a, b in zip(ours["ang"], theirs["angle"], strict=True))
        assert torch.allclose(ours["reg"][0], factor * theirs["reg"][0])
        assert torch.allclose(ours["reg"][1], factor * theirs["reg"][1] + more)
    assert found.config.head.exponential == model.get("rtmdet_exp_on_reg", True)  # type: ignore[union-attr]


def test_a_model_without_a_factor_of_the_angle(tmp_path: Path) -> None:
    state = files.rtmdet()
    del state["head.scale_angle_module.scale"]
    found = read_detector_file(files.write(tmp_path, state))
    assert torch.equal(found.weights["head.ang_out.1.bias"], state["head.rtm_angle.bias"])


@pytest.mark.parametrize(("change", "model", "message"), [
    ({"head.scales.2.scale": None}, {}, "3 factors; expected one for each of three levels"),
    ({"head.scales.2.scale": torch.ones(2)}, {}, "expected one for each of three levels"),
    ({}, {"fpn_strides": [4, 8, 16]}, r"levels of strides \[4, 8, 16\]"),
    ({"backbone.body.stem.2.conv.weight": torch.ones(40, 1, 3, 3)}, {}, "a stem of 40 channels"),
    ({"head.extra.weight": torch.ones(1)}, {}, None),
])  # fmt: skip
def test_what_is_refused(change: dict[str, Any], model: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    state = {key: value for key, value in (files.rtmdet() | change).items() if value is not None}
    path = files.write(tmp_path, state, {"model": model})
    if message is None:
        found = read_detector_file(path)
        with pytest.raises(UserError, match=r"unexpected \(1\): head\.extra\.weight"):
            filled_network(found.config, 3, found.weights, path, found.layout)
        return
    with pytest.raises(UserError, match=message):
        read_detector_file(path)


def test_it_has_no_anchors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Leave out --anchors"):
        read_detector_file(files.write(tmp_path, files.rtmdet()), "v0")
