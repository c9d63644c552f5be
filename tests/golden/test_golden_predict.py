"""A checkpoint as MMRotate 0.x writes it, through `rotanext predict`, gives the reference's detections."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import formula
from places import GOLDEN
from rotanext.cli import main as cli
from rotanext.data.dota import CLASS_LISTS
from rotanext.images.reading import write_png
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
        cli.main()
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
