"""`rotanext eval`."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from rotanext.load import load_detector, save_detector
from tiny import draw_dataset


def test_json_of_eval(cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 2)
    (root / "images/p0.png").write_bytes(b"x")
    done = cli("eval", root, "--weights", tiny_weights, "--out", tmp_path / "out", "--device", "cpu", "--json")
    assert done.code == 1
    result = json.loads(done.out)
    assert result["images"] == 1
    assert set(result["mean"]["area"]) == {"map50", "map75", "map50_95"}
    assert result["larger_than_image"] == {"larger": 0, "detections": 0, "images": 1}
    assert (result["calibration"]["ece"], len(result["calibration"]["detections"])) == (None, 15)
    assert json.loads((tmp_path / "out/metrics.json").read_text())["calibration"] == result["calibration"]
    assert result["skipped"] == 1
    assert "p0.png" in result["problems"][0]
    assert "Skipped 1 invalid item" in done.err


def test_boxes_larger_than_their_image_are_counted(cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """A head that decodes beyond the image, with and without the setting that drops such boxes."""
    detector = load_detector(tiny_weights, "cpu")
    with torch.no_grad():
        detector.model.head.reg_out.bias[2::5] = 2.0  # 7.4 times as wide as the anchor: the larger ones leave their image
    options = ("--out", tmp_path / "out", "--device", "cpu")
    counts = []
    for drop in (False, True):
        save_detector(detector.reconfigured(drop_absurd=drop, score_threshold=0.0), tmp_path / "w.safetensors")
        done = cli("eval", tiny_dataset / "val", "--weights", tmp_path / "w.safetensors", *options)
        assert done.code == 0, done.err
        found = json.loads((tmp_path / "out/metrics.json").read_text())["larger_than_image"]
        counts.append(found["larger"])
        detections = f"{found['larger']:,} of {found['detections']:,} detections are longer than the diagonal of the image."
        assert detections in done.out
        assert "Expected calibration error: " in done.out
    assert 0 < counts[1] < counts[0]
