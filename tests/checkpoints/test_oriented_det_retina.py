"""oriented-det's RetinaNet: anchors in another order and place, coding that is put into weights, what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oriented_det_files as files
from rotanext.checkpoints.detectors import filled_network, read_detector_file
from rotanext.errors import UserError
from rotanext.heads.coding import decode

RATIOS = (0.5, 1.0, 2.0)  # width / height


def test_the_network_and_its_anchors(tmp_path: Path) -> None:
    found = read_detector_file(files.write(tmp_path, files.retina(), {"model": {"anchor_ratios": list(RATIOS)}}))
    config: Any = found.config
    assert (found.layout, config.backbone.name, config.neck.kind) == ("oriented-det retinanet", "resnet18", "fpn-relu")
    assert (config.head.anchors, config.head.anchor_scale, config.head.anchor_octaves) == ("v0", 4.0, 3)
    assert config.head.anchor_ratios == (2.0, 1.0, 0.5)
    filled_network(config, 3, found.weights, tmp_path, found.layout)


def test_a_file_alone_is_taken_to_be_the_published_system(tmp_path: Path) -> None:
    found = read_detector_file(files.write(tmp_path, files.retina(), None, legacy=True))
    assert found.class_names is None
    assert (found.config.predict.tile, found.config.predict.score_threshold) == (1024, 0.05)
    assert any("taken to be its published system's" in note for note in found.notes)


@pytest.mark.parametrize("coding", [
    {}, {"target_stds": [0.1, 0.1, 0.2, 0.2, 0.1], "target_means": [0.3, -0.2, 0.1, 0.4, 0.2], "roi_norm_factor": 2.0},
], ids=["plain", "normalised"])  # fmt: skip
def test_boxes_are_theirs(coding: dict[str, Any], tmp_path: Path) -> None:
    """Of a position's biases alone, by their formula: anchors (x + 1/2) s, size by size and ratio by ratio, deltas unscaled."""
    state = files.retina()
    found = read_detector_file(files.write(tmp_path, state, {"model": coding}))
    means = torch.tensor(coding.get("target_means", [0.0] * 5))
    factors = torch.tensor(coding.get("target_stds", [1.0] * 5))
    turn = math.pi * coding.get("roi_norm_factor", 1 / math.pi)
    stride, boxes, logits = 16, [], []
    for octave in range(3):
        for number, ratio in enumerate(RATIOS):
            side, place = 4 * stride * 2 ** (octave / 3), octave * 3 + number
            anchor = torch.tensor([2.5 * stride, 1.5 * stride, side * math.sqrt(ratio), side / math.sqrt(ratio), 0.0])
            deltas = state["head.conv_bbox.bias"].view(9, 5)[place] * factors + means
            boxes.append(decode(anchor, deltas * torch.tensor([1, 1, 1, 1, turn])))
            logits.append(state["head.conv_cls.bias"].view(9, 3)[place])
    config: Any = found.config
    ours = config.head.anchor_rule((8, 16, 32, 64, 128)).at(
        torch.arange(2 + 1 * 10, 2 + 1 * 10 + 1) * 9 + torch.arange(9), 10, stride
    )
    made = decode(ours, found.weights["head.reg_out.bias"].view(9, 5))
    same = [octave * 3 + ratio for ratio in range(3) for octave in range(3)]  # their number of each of ours
    assert torch.allclose(made, torch.stack(boxes)[same], rtol=1e-5, atol=1e-4)
    assert torch.equal(found.weights["head.cls_out.bias"].view(9, 3), torch.stack(logits)[same])
    weight = (
        state["head.conv_bbox.weight"].view(9, 5, 8, 3, 3)[same] * (factors * torch.tensor([1, 1, 1, 1, turn]))[:, None, None, None]
    )
    assert torch.allclose(found.weights["head.reg_out.weight"].view_as(weight), weight)


def test_one_size_for_each_level(tmp_path: Path) -> None:
    model = {"anchor_octave_base_scale": None, "anchor_scales_per_octave": None, "anchor_scales": [8, 8], "anchor_angles": []}
    found = read_detector_file(files.write(tmp_path, files.retina(3), {"model": model}))
    head: Any = found.config.head
    assert (head.anchor_scale, head.anchor_octaves, head.anchor_ratios) == (8.0, 1, (2.0, 1.0, 0.5))


def _drop(part: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: [state.pop(key) for key in list(state) if part in key] and None


def _add(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(("change", "model", "message"), [
    (None, {"anchor_angles": [-45, 0, 45]}, "horizontal ones"),
    (None, {"anchor_octave_base_scale": None, "anchor_scales": [8, 16]}, "horizontal ones"),
    (None, {"anchor_ratios": [0.0, 1.0]}, "horizontal ones"),
    (None, {"anchor_ratios": [1.0]}, r"conv_cls of 27 outputs|conv_bbox of 45 outputs; expected those of 3 anchors"),
    (None, {"target_stds": [1.0]}, "deltas normalised by"),
    (None, {"roi_norm_factor": "x"}, "deltas normalised by"),
    (_drop("extra_blocks"), {}, "a pyramid on 3 maps, without P6 and P7"),
    (_add("backbone.fpn.inner_blocks.3.0.weight", torch.ones(1)), {}, "a pyramid on 4 maps, with P6 and P7"),
    (_add("head.conv_angle.weight", torch.ones(1)), {}, "an FCOS of oriented-det"),
    (_add("head.conv_bbox.bias", torch.tensor(1.0)), {}, "conv_bbox of 45 outputs"),
    (_add("head.conv_bbox.weight", torch.tensor(1.0)), {}, "conv_bbox of 0 outputs"),
    (_drop("layer4.1"), {}, "a published ConvNeXt or ResNet"),
])  # fmt: skip
def test_what_is_refused(change: Any, model: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = files.retina()
    if change:
        change(state)
    with pytest.raises(UserError, match=message):
        read_detector_file(files.write(tmp_path, state, {"model": model}))


def test_its_anchors_are_of_one_kind(tmp_path: Path) -> None:
    path = files.write(tmp_path, files.retina())
    assert read_detector_file(path, "v0").config.head.anchors == "v0"
    with pytest.raises(UserError, match="anchors v0, which it has"):
        read_detector_file(path, "v1")
