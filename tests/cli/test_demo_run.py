"""The demo in miniature: everything it promises is there, and a second call does its last part again."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from rotanext.cli import demo_run
from rotanext.load import load_detector


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TRAINING_SCENES": 2,
        "VALIDATION_SCENES": 1,
        "SCENE_SIDE": 320,
        "TILE": 160,
        "TRAINING_TILES": 8,
        "SHOWN_SIZE": (200, 240),
    }.items():
        monkeypatch.setattr(demo_run, name, value)
    console = Console(file=(tmp_path / "said").open("w"), width=200)
    demo_run.run_demo(tmp_path / "run", "cpu", console)
    expected = [
        "last.safetensors", "metrics.jsonl", "curves.png", "evaluation/metrics.json", "evaluation/precision_recall.png",
        "evaluation/confusion.png", "images/scene.png", "images/scene_labels.png", "images/scene_detections.png",
        "images/validation_detections.png", "scene/Task1/Task1.zip", "scene/detections.json",
    ]  # fmt: skip
    assert [name for name in expected if not (tmp_path / "run" / name).is_file()] == []
    kept = (tmp_path / "run/last.safetensors").read_bytes()
    (tmp_path / "run/images/scene_detections.png").unlink()

    demo_run.run_demo(tmp_path / "run", "cpu", console)
    assert (tmp_path / "run/last.safetensors").read_bytes() == kept
    assert (tmp_path / "run/images/scene_detections.png").is_file()
    classes = load_detector(tmp_path / "run/last.safetensors", "cpu").class_names
    report = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert set(report["iou"]["0.5"]["classes"]) == set(classes)
    assert len(classes) >= 2


def test_half_a_folder_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise KeyboardInterrupt

    def whole(folder: Path) -> None:
        folder.mkdir()
        (folder / "whole").touch()

    with pytest.raises(KeyboardInterrupt):
        demo_run._once(tmp_path / "data", interrupted)
    assert not (tmp_path / "data").exists()
    demo_run._once(tmp_path / "data", whole)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["whole"]
    demo_run._once(tmp_path / "data", interrupted)  # it is there: not made again
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
