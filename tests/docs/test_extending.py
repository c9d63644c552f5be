"""docs/extending.md, followed: a copy of the package with the page's files and changes trains, detects, exports and converts."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import extending
from places import ROOT
from rotanext.heads.losses import REGRESSION_LOSSES
from rotanext.heads.retina import RetinaConfig
from tiny import TINY, Outcome, draw_dataset

SMALL = [
    *(value for value in TINY if not value.startswith(("head.", "train.epochs"))),
    *("train.lr=0.003", "train.trackers=[]"),
]
SMALLEST = [*SMALL, "backbone.kind=plain", "backbone.width=8"]  # quick to trace


class Extended:
    """The extended package in a process of its own, which works in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        source = extending.extend(folder)
        environment = os.environ | {"PYTHONPATH": str(source), "COLUMNS": "200"}
        script = [sys.executable, str(ROOT / "tests/support/one_process.py")]
        self.process = subprocess.Popen(
            script, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        where = self.python("import rotanext; print(rotanext.__file__)").out.strip()
        assert where == str(source / "rotanext/__init__.py")

    def rotanext(self, *arguments: object, code: int = 0) -> Outcome:
        """Run a command, which must end with that exit code."""
        return self._ask({"arguments": [*map(str, arguments)]}, code)

    def python(self, program: str) -> Outcome:
        """Run a program."""
        return self._ask({"program": program}, 0)

    def _ask(self, request: dict[str, Any], code: int) -> Outcome:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process has died"
        outcome = Outcome(**json.loads(answer))
        assert outcome.code == code, outcome.err
        return outcome


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
    """The package with all that the page adds, beside the data set mydata."""
    folder = tmp_path_factory.mktemp("extending")
    draw_dataset(folder / "mydata/train", 4)
    made = Extended(folder)
    yield made
    assert made.process.stdin is not None
    made.process.stdin.close()
    made.process.wait(60)


def command(start: str, *more: object) -> list[object]:
    """The page's one command that begins so, without the program's name."""
    (found,) = [line for line in extending.commands() if line.startswith(f"rotanext {start}")]
    return [*found.split()[1:], *more]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(extended: Extended, name: str, *overrides: str, recipe: str = "small") -> list[dict[str, Any]]:
    """The log of the page's training `runs/NAME`, which must have learnt."""
    extended.rotanext(*command(f"train {recipe} --data mydata/train --run runs/{name} "), "--device", "cpu", *overrides)
    rows = rows_of(extended.folder / "runs" / name)
    losses = [row["loss"] for row in rows]
    assert all(0 < loss < 1000 for loss in losses)
    assert losses[-1] < 0.8 * losses[0]
    return rows


def test_a_backbone(extended: Extended) -> None:
    trained(extended, "plain", *SMALL, "train.epochs=30", "head.stacked_convs=1")
    kind = "from rotanext import load_detector; print(type(load_detector('runs/plain/last.safetensors', 'cpu').model.backbone))"
    assert extended.python(kind).out.strip() == "<class 'rotanext.models.plain.Plain'>"


def test_a_loss(extended: Extended) -> None:
    options = (*SMALLEST, "backbone.weights=", "train.epochs=20", "train.lr=0.001", "head.stacked_convs=1")
    trained(extended, "corner", *options, recipe="rotated-retinanet-rbox-le90_r50_fpn_kld-stable_adamw-1x_dota")
    config = json.loads((extended.folder / "runs/corner/config.json").read_text())
    assert config["head"]["box_loss"] == "corner"


def test_the_loss_is_finite_on_every_input() -> None:
    loss = extending.module("src/rotanext/heads/corner_loss.py").corner_loss
    boxes = torch.tensor([[10.0, 10, 8, 4, 0.3], [10, 10, 8, 4, -1.5], [0, 0, 1e-7, 1e-7, 0], [1e4, 0, 1e4, 1, 1]])
    boxes.requires_grad_()
    values = loss(boxes, torch.tensor([[10.0, 10, 8, 4, 0.3], [10, 10, 8, 4, 1.6], [1e4, 1e4, 1, 1, 0], [0, 0, 1e-7, 1e-7, 0]]))
    values.sum().backward()
    assert values[0] == 0
    assert values[1] < 0.01, "just beyond a quarter turn it is nearly the same box"
    assert ((values >= 0) & (values <= 1)).all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_every_loss_is_known_to_the_configuration() -> None:
    assert set(get_args(RetinaConfig.model_fields["box_loss"].annotation)) == set(REGRESSION_LOSSES)


USE = """
import json
from rotanext import load_detector, save_detector
from rotanext.images.reading import read_image

image = read_image("mydata/train/images/p0.png")
detector = load_detector("runs/toy/last.safetensors", "cpu")
save_detector(detector, "again.safetensors")
several = {"toy": detector, "again": load_detector("again.safetensors", "cpu")}
if EXPORTED:
    several["exported"] = load_detector("toy.onnx")
found = {name: one(image, score_threshold=0.005) for name, one in several.items()}
every = {name: [one.boxes.tolist(), one.scores.tolist(), one.labels.tolist()] for name, one in found.items()}
print(json.dumps({"head": type(detector.model.head).__name__, "names": detector.class_names, "found": every}))
"""


@pytest.fixture(scope="module")
def toy(extended: Extended) -> list[dict[str, Any]]:
    """The log of the toy's training, in runs/toy."""
    return trained(extended, "toy", *SMALLEST, "train.epochs=40")


def test_a_head_trains(extended: Extended, toy: list[dict[str, Any]]) -> None:
    assert {key for key in toy[0] if key.startswith("loss")} == {"loss", "loss_score", "loss_shape"}
    assert all(row["positives"] == 4 for row in toy)
    page = (extended.folder / "runs/toy/report.html").read_text()
    assert "score, last " in page
    assert "shape, last " in page


def test_a_head_resumes(extended: Extended, toy: list[dict[str, Any]]) -> None:
    folder = extended.folder / "runs/resumed"
    shutil.copytree(extended.folder / "runs/toy", folder)
    (folder / f"states/state-{toy[-1]['step']:08d}.pt").unlink()
    told = extended.rotanext("train", "--resume", folder, "--device", "cpu").err
    assert "loss_score" in told
    again = rows_of(folder)
    assert [row["step"] for row in again] == [row["step"] for row in toy]
    assert again[-1]["loss"] == pytest.approx(toy[-1]["loss"], rel=1e-3)


def test_a_head_saves_loads_and_detects(extended: Extended, toy: list[dict[str, Any]]) -> None:
    used = json.loads(extended.python(USE.replace("EXPORTED", "False")).out)
    assert (used["head"], used["names"]) == ("ToyHead", ["plane", "ship"])
    assert used["found"]["again"] == used["found"]["toy"]
    boxes = torch.tensor(used["found"]["toy"][0])
    assert len(boxes) > 0
    assert (boxes[:, 2] >= boxes[:, 3]).all()
    assert (boxes[:, 3] > 0).all()
    assert ((boxes[:, 4] >= -math.pi / 2) & (boxes[:, 4] < math.pi / 2)).all()


@pytest.mark.slow
def test_a_head_exports(extended: Extended, toy: list[dict[str, Any]]) -> None:
    weights = extended.folder / "runs/toy/last.safetensors"
    extended.rotanext("export", "--weights", weights, "--format", "onnx", "--out", "toy.onnx")
    parity = json.loads((extended.folder / "toy.onnx.parity.json").read_text())
    assert parity["passed"]
    assert parity["priors"] > 0
    found = json.loads(extended.python(USE.replace("EXPORTED", "True")).out)["found"]
    for values, expected in zip(found["exported"], found["toy"], strict=True):
        torch.testing.assert_close(torch.tensor(values), torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_the_data_doctor_asks_the_head(extended: Extended, toy: list[dict[str, Any]]) -> None:
    folder = extended.folder / "runs/doctor"
    extended.rotanext(
        *command("train small --data mydata/train --run runs/toy "), "--run", folder, "--device", "cpu", *SMALLEST, "train.epochs=1"
    )
    weights = folder / "last.safetensors"
    told = extended.rotanext("labels", "check", "mydata/train", "--weights", weights, "--json", "--out", "doctor")
    said = json.loads(told.out)
    assert said["priors"] == {"recipe": "small", "measure": "length in strides", "least": 0.5, "objects": 8, "unmatched": 0.0}
    assert "Best are objects of 8 to 128 pixels." in said["advice"]


def test_a_wrong_key_of_a_new_kind_is_named(extended: Extended) -> None:
    done = extended.rotanext(*command("train small --data mydata/train --run runs/toy "), "head.anchor_scale=4.0", code=2)
    assert "no key 'head.anchor_scale' of kind 'toy'" in done.err
    done = extended.rotanext("train", "small", "--data", "mydata/train", "--run", "runs/none", "head.kind=tot", code=2)
    assert "head.kind: found tot; expected one of 'aligned', 'retina', 'rtmdet', 'toy'" in done.err


def test_a_label_format_goes_there_and_back(extended: Extended) -> None:
    folder = extended.folder
    there = extended.rotanext(*command("labels convert mydata/train csvdata"))
    assert "4 images with 8 objects of 2 classes" in there.err
    assert "nothing was lost" in there.err
    extended.rotanext(*command("labels convert csvdata again"))
    for path in sorted((folder / "mydata/train/labelTxt").iterdir()):
        assert (folder / "again/labelTxt" / path.name).read_text() == path.read_text()
    table = folder / "csvdata/labels.csv"
    lines = table.read_text().splitlines()
    lines[2] = "p1.png,plane,1,2,3"
    lines[4] = lines[4].replace("plane,", "plane,far", 1)
    table.write_text("\n".join([*lines, "p9.png"]) + "\n")
    damaged = extended.rotanext("labels", "convert", "csvdata", "damaged", "--from", "csv", "--to", "dota", code=1).err
    assert (
        f"{Path('csvdata/labels.csv')}:3: found a line of 5 values; expected image, class, and x and y of four corners" in damaged
    )
    assert "csvdata/labels.csv:5: found 'far" in damaged
    assert "5 images with 6 objects" in damaged


@pytest.mark.slow
def test_the_format_is_among_those_that_the_tests_take_there_and_back(extended: Extended) -> None:
    command = [sys.executable, "-m", "pytest", "tests/labels/test_convert.py", "-k", "csv", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(extended.folder / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_change_that_does_not_fit_is_refused() -> None:
    assert extending.changed("a\nb\nc\n", " a\n-b\n+d\n@@\n+e\n c\n") == "a\nd\ne\nc\n"
    for diff in ("-x\n+y\n", "-a\n+b\n", "a\n"):
        with pytest.raises(AssertionError):
            extending.changed("a\nb\na\n", diff)
