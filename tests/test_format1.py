"""Files of format 1, written before a detector's parts had sections of their own, still load, go on, and give the same."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from places import TESTS
from rotanext.config import load_config, saved_values
from rotanext.config.formats import FORMAT
from rotanext.detections import Detections
from rotanext.errors import Problems
from rotanext.images.reading import read_image
from rotanext.load import load_detector, save_detector
from rotanext.training.folder import read_run_config
from rotanext.training.train import start_training

FILES = TESTS / "files/format1"
RUNS = ("adamw-ema", "sgd-v1")
WRITTEN = json.loads((FILES / "detections.json").read_text())


def assert_as_written(found: Detections, run: str) -> None:
    """The detections that the build of that time found; weights and arithmetic are the same up to a processor's rounding."""
    expected = WRITTEN[run]
    count = len(expected["scores"])
    assert found.class_names == tuple(expected["names"])
    torch.testing.assert_close(found.scores[:count], torch.tensor(expected["scores"]), rtol=0, atol=1e-5)
    # scores of an untrained detector are all alike: boxes are looked for among all
    near = (found.boxes[:, None] - torch.tensor(expected["boxes"])[None]).abs().amax(2).amin(0)
    assert (near < 0.05).float().mean() >= 0.9


@pytest.mark.parametrize("run", RUNS)
def test_detectors(run: str, tmp_path: Path) -> None:
    detector = load_detector(FILES / run / "last.safetensors", "cpu")
    assert detector.config.backbone.kind == "timm"
    assert detector.config.head.anchors == ("v1" if run == "sgd-v1" else "v0")
    assert detector.config.predict.overlap == 128
    image = read_image(FILES / "data/images/t1.png")
    assert_as_written(detector(image, score_threshold=0.001), run)
    save_detector(detector, tmp_path / "new.safetensors")
    again = load_detector(tmp_path / "new.safetensors", "cpu")
    assert again.config == detector.config
    assert torch.equal(again(image, score_threshold=0.001).boxes, detector(image, score_threshold=0.001).boxes)


def test_anchors_of_such_a_file_can_be_replaced(caplog: pytest.LogCaptureFixture) -> None:
    assert load_detector(FILES / "sgd-v1/last.safetensors", "cpu", anchors="v1").config.head.anchors == "v1"
    assert caplog.messages == []
    assert load_detector(FILES / "sgd-v1/last.safetensors", "cpu", anchors="v0").config.head.anchors == "v0"
    assert "anchors v0 are asked for, but the file says v1" in caplog.text


def test_an_exported_detector() -> None:
    detector = load_detector(FILES / "detector.onnx", "cpu")
    assert_as_written(detector(read_image(FILES / "data/images/t1.png"), score_threshold=0.001), "sgd-v1")


@pytest.mark.parametrize("run", RUNS)
def test_trainings_go_on(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the state after 12 of 16 steps to the weights and losses that the build of that time ended with."""
    shutil.copytree(FILES / "data", tmp_path / "data")
    folder = tmp_path / run
    (folder / "states").mkdir(parents=True)
    shutil.copy(FILES / run / "config.json", folder)
    rows = (FILES / run / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(rows[:2]) + "\n")
    (folder / "states/state-00000012.pt").write_bytes(gzip.decompress((FILES / run / "states/state-00000012.pt.gz").read_bytes()))
    monkeypatch.chdir(tmp_path)
    start_training(read_run_config(folder), folder, "cpu", Problems(strict=True), Console(quiet=True), resume=True)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    expected = json.loads(rows[-1])
    assert last.keys() == expected.keys()
    assert last["step"] == 16
    for key, value in expected.items():
        assert last[key] == pytest.approx(value, rel=1e-3), key
    # the same parameters under their old names, trained by the same optimiser
    old, new = (load_file(path / "last.safetensors") for path in (FILES / run, folder))
    renamed = {key.replace("fpn.", "neck.").replace("_tower.", "_convs."): value for key, value in old.items()}
    assert renamed.keys() == new.keys()
    for key, value in renamed.items():
        torch.testing.assert_close(new[key], value, rtol=1e-2, atol=1e-4, msg=key)
    assert json.loads((folder / "config.json").read_text())["format"] == FORMAT
    assert max(path.name for path in (folder / "states").iterdir()) == "state-00000016.pt"


def test_a_saved_configuration_as_a_recipe() -> None:
    config = load_config(str(FILES / "adamw-ema/config.json"), ["train.epochs=7"])
    assert (config.backbone.name, config.neck.channels, config.head.stacked_convs) == ("test_efficientnet", 8, 1)
    assert config.train.epochs == 7
    assert saved_values(config)["format"] == FORMAT
