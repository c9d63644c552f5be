"""A checkpoint as MMRotate 0.x writes it, through `rotanext predict`, gives the reference's detections."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import formula
import rtmdet_files
from places import GOLDEN
from rotanext.boxes import regularize
from rotanext.cli import main as program
from rotanext.data.dota import CLASS_LISTS
from rotanext.images.reading import write_png
from rotanext.load import load_detector
from rotanext.ops import rotated_iou


def test_command_line_on_a_reference_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.loads((GOLDEN / "convnext-tiny.json").read_text())
    weights = {name: torch.from_numpy(v) for name, v in formula.state_dict(facts["shapes"], facts["salt"]).items()}
    classes = CLASS_LISTS["dota1.0"]
    meta = {"mmrotate_version": "0.1.0", "mmdet_version": "2.22.0", "CLASSES": classes, "epoch": 12, "iter": 76968}
    torch.save({"meta": meta, "state_dict": weights, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "epoch_12.pth")
    write_png(tmp_path / "image.png", formula.image(5, 512, 512))

    arguments = ["predict", str(tmp_path / "image.png"), "--weights", str(tmp_path / "epoch_12.pth"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["rotanext", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as exit_:
        program.main()
    assert not exit_.value.code

    (image,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    boxes = torch.tensor([d["box"] for d in image["detections"]])
    scores = np.array([d["score"] for d in image["detections"]])
    labels = np.array([classes.index(d["class"]) for d in image["detections"]])
    golden = np.load(GOLDEN / "convnext-tiny.npz")
    wanted = golden["det_scores"] > 0.35
    iou = rotated_iou(torch.from_numpy(golden["det_boxes"][wanted]), boxes).numpy()
    iou[golden["det_labels"][wanted][:, None] != labels[None]] = 0
    assert iou.max(1).min() > 0.99
    assert np.abs(scores[iou.argmax(1)] - golden["det_scores"][wanted]).max() < 1e-3
    assert (scores > 0.35).sum() == wanted.sum()

    lines = (tmp_path / "out" / "Task1" / f"Task1_{classes[golden['det_labels'][0]]}.txt").read_text().splitlines()
    name, score, *corners = lines[0].split()
    assert name == "image"
    assert float(score) == pytest.approx(golden["det_scores"][0], abs=1e-3)
    assert len(corners) == 8


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before-1.6"])
def test_an_rtmdet_of_mmrotate_1(legacy: bool, cli: Callable, tmp_path: Path) -> None:
    """A training's checkpoint, converted: the detections are the reference's, and those of the file as it is."""
    source, target = tmp_path / "epoch_36.pth", tmp_path / "ours.safetensors"
    rtmdet_files.write(source, rtmdet_files.golden_weights("tiny"), legacy=legacy)
    done = cli("convert", source, target)
    assert done.code == 0, done.err
    assert "turned to RGB" in done.err
    facts, golden = json.loads((GOLDEN / "rtmdet-tiny.json").read_text()), np.load(GOLDEN / "rtmdet-tiny.npz")
    (y, x, height, width), seed = facts["images"][0]["crop"], int(facts["images"][0]["image"].removeprefix("formula:"))
    assert (y, x) == (0, 0)
    image = formula.image(seed, height, width)
    detector = load_detector(target, "cpu").reconfigured(max_detections=2000, top_k=2000)  # the file's own are others
    found = detector(image, score_threshold=facts["det_threshold"])
    iou = rotated_iou(regularize(torch.from_numpy(golden["det_boxes"])), found.boxes).numpy()
    iou[golden["det_labels"][:, None] != found.labels.numpy()[None]] = 0
    assert len(found) == len(golden["det_scores"])
    assert iou.max(1).min() > 0.99
    assert np.abs(found.scores.numpy()[iou.argmax(1)] - golden["det_scores"]).max() < 1e-3
    assert found.class_names == CLASS_LISTS["dota1.0"]
    as_it_is = load_detector(source, "cpu").reconfigured(max_detections=2000, top_k=2000)(
        image, score_threshold=facts["det_threshold"]
    )
    assert torch.equal(as_it_is.boxes, found.boxes)
    assert torch.equal(as_it_is.scores, found.scores)
