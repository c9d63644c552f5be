"""oriented-det's detectors: what its configuration tells, and, with the package itself (slow), that networks compute the same."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import formula
import oriented_det_files as files
from places import SUPPORT
from rotanext.checkpoints.detectors import read_detector_file
from rotanext.checkpoints.oriented_det import numbers, settings
from rotanext.errors import UserError
from rotanext.heads.contract import rows
from rotanext.load import load_detector

SIZE, CLASSES = 256, 3  # as in oriented_det_program.py
PUBLISHED = {
    "backbone": "resnet18", "fpn_returned_layers": [2, 3, 4], "fpn_extra_level": True, "anchor_octave_base_scale": 4,
    "anchor_scales_per_octave": 3, "anchor_ratios": [0.5, 1.0, 2.0], "retinanet_stacked_convs": 2,
}  # fmt: skip
CODING = {"target_stds": [0.1, 0.1, 0.2, 0.2, 0.1], "target_means": [0.1, 0.0, 0.0, -0.2, 0.1], "roi_norm_factor": 2.0}
ONE_SIZE = {"anchor_octave_base_scale": None, "anchor_scales": [8], "anchor_ratios": [0.25, 1.0, 2.0, 3.0]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "rtmdet-tiny": ("rtmdet", {"backbone": "cspnext_tiny"}),
    "rtmdet-s": ("rtmdet", {"backbone": "cspnext_s", "rtmdet_norm_on_bbox": False, "rtmdet_stacked_convs": 3}),
    "rtmdet-plain": (
        "rtmdet",
        {"backbone": "cspnext_tiny", "rtmdet_norm_on_bbox": False, "rtmdet_exp_on_reg": False, "rtmdet_scale_angle": False},
    ),
    "retinanet": ("retinanet", PUBLISHED),
    "retinanet-coded": ("retinanet", PUBLISHED | CODING),
    "retinanet-one-size": ("retinanet", PUBLISHED | ONE_SIZE | {"backbone": "resnet50"}),
}


@pytest.mark.parametrize("place", ["checkpoints/c.json", "checkpoints/config.json", "config.json"])
def test_where_the_configuration_lies(place: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / place).write_text(json.dumps({"model_type": "rotated_retinanet", "model": {"a": 1, "b": None}}))
    found = settings(tmp_path / "checkpoints/c.pth")
    assert str(tmp_path / place) in found.note
    assert [found.of("model", key, 2) for key in ("a", "b", "c")] == [1, None, 2]
    assert found.of("other", "a", 3) == 3


@pytest.mark.parametrize("text", ['{"model_type": "x", "_base_": "other.json"}', "[1]", '{"hidden_size": 3}'])
def test_other_configurations_are_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    found = settings(tmp_path / "c.pth")
    assert found.values == {}
    assert "no configuration beside the file (c.json or config.json)" in found.note


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"])
def test_a_configuration_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"config\.json: found no JSON"):
        settings(tmp_path / "c.pth")


@pytest.mark.parametrize(("value", "count", "found"), [
    ([1, 2.5], None, (1.0, 2.5)), ((1, 2), 2, (1.0, 2.0)), ([1], 2, None), ([], None, None), ([float("nan")], None, None),
    ([True], None, None), (["1"], None, None), (1, None, None),
])  # fmt: skip
def test_numbers(value: Any, count: int | None, found: tuple[float, ...] | None) -> None:
    assert numbers(value, count) == found


@pytest.mark.parametrize("state", [files.rtmdet, files.retina])
def test_sizes_scores_and_names(state: Any, tmp_path: Path) -> None:
    model = {"inference_pre_nms_score_threshold": 0.1, "final_nms_iou_threshold": 0.2, "max_detections_per_image": 300}
    config = {"model": model, "preprocessing": {"target_size": [512, 512]}}
    found = read_detector_file(files.write(tmp_path, state(), config, averages=True))
    predict = found.config.predict
    assert (predict.score_threshold, predict.iou_threshold, predict.max_detections) == (0.1, 0.2, 300)
    assert (predict.tile, predict.overlap, predict.image_size, found.config.data.image_size) == (512, 100, 0, 512)
    assert found.class_names == files.CLASSES
    notes = "\n".join(found.notes)
    assert f"configuration: {tmp_path / 'config.json'}" in notes
    assert "ignored: ema_state_dict, the averaged weights" in notes
    assert "not needed for detecting: optimizer_state_dict" in notes


@pytest.mark.parametrize("state", [files.rtmdet, files.retina])
@pytest.mark.parametrize(("key", "value"), [("normalize_mean", [0.5, 0.5, 0.5]), ("normalize_std", 1)])
def test_other_pixels(state: Any, key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"found {key} "):
        read_detector_file(files.write(tmp_path, state(), {"preprocessing": {key: value}}))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Python with oriented-det from the package index in an environment of its own, beside what is installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    own = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (own / "here.pth").write_text(sysconfig.get_path("purelib"))
    program = folder / "bin/python"
    install = [program, "-m", "pip", "install", "--quiet", "--no-deps", "--target", own, "oriented-det==0.4.1"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"oriented-det cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    yield program
    shutil.rmtree(folder)


def same_boxes(ours: Tensor, theirs: Tensor) -> None:
    """Equal boxes `[N, 5]`: 1e-3 of what the numbers vary by; angles modulo a half turn, where sides differ."""
    spread = theirs.std(0).clamp_min(1e-3)
    assert float(((ours - theirs).abs() / spread)[:, :4].max()) < 1e-3
    unequal = (theirs[:, 2] / theirs[:, 3] - 1).abs() > 1e-3
    assert float(torch.sin(ours - theirs)[unequal, 4].abs().max()) < 1e-3
    assert unequal.sum() > 100


@pytest.mark.slow
@pytest.mark.parametrize("which", MODELS)
def test_against_oriented_det(which: str, python: Path, tmp_path: Path) -> None:
    """The package builds a model with random weights, saves it as its trainings do and computes an image; so do we."""
    family, options = MODELS[which]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT), "CUDA_VISIBLE_DEVICES": ""}
    program = [python, "-W", "ignore", SUPPORT / "oriented_det_program.py", family, json.dumps(options), tmp_path]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    detector = load_detector(tmp_path / "checkpoints/checkpoint_epoch_0003.pth", "cpu")
    expected = np.load(tmp_path / "outputs.npz")
    logits, boxes = torch.from_numpy(expected["logits"]), torch.from_numpy(expected["boxes"])
    if family == "retinanet":  # theirs: sizes first, then ratios
        octaves, priors = detector.config.head.anchor_octaves, detector.config.head.priors
        order = torch.arange(priors).view(octaves, -1).T.flatten()
        logits, boxes = (values.unflatten(0, (-1, priors))[:, order].flatten(0, 1) for values in (logits, boxes))
    with torch.inference_mode():
        raw = detector.model(detector.model.prepare([torch.from_numpy(formula.image(5, SIZE, SIZE))]))
        assert float((torch.cat(rows(raw.logits, CLASSES), 1)[0] - logits).abs().max()) < 1e-3 * float(logits.std())
        same_boxes(detector.model.head.decode(raw)[0], boxes)
    assert float(logits.std()) > 0.1
    assert detector.class_names == ("plane", "ship", "harbor")
