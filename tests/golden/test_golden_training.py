"""Optimiser steps of three published recipes against the reference's: rate, both losses, gradient norm before clipping.

They run through the trainer itself, on synthetic images without drop path. Losses of RetinaNet: 1e-4 at the first step, 1 % at the
sixth. Of RTMDet, in three steps: losses 1e-5, 1e-4, 1e-3, gradient norm 1e-4, 1e-3, 1e-2; then changes of parameters.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

import formula
from places import GOLDEN
from reference_models import RECIPES, own_name, reference_model
from reference_rtmdet import RECIPE as RTMDET
from reference_rtmdet import golden, in_bgr, probe
from reference_rtmdet import own_name as own_rtmdet_name
from rotanext.boxes import boxes_to_corners
from rotanext.config import load_config
from rotanext.data.dataset import Sample
from rotanext.data.dota import write_objects
from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.objects import Objects
from rotanext.system.progress import Display
from rotanext.training.train import Trainer

# The reference averages a tensor once under each of its names: the three levels' shared weights three times a step. Not copied.
SHARED = re.compile(r"head\.(cls|reg)_convs\.\d\.weight")
CLASSES = [f"class-{i:02d}" for i in range(15)]


def trainer_of(folder: Path, recipe: str, overrides: list[str], samples: list[Sample]) -> Trainer:
    """A trainer of a recipe on a data set of these samples, in that folder."""
    for part in ("images", "labelTxt"):
        (folder / "data" / part).mkdir(parents=True)
    for number, sample in enumerate(samples):
        write_png(folder / f"data/images/{number}.png", sample.image.numpy())
        corners = boxes_to_corners(sample.boxes.double()).numpy()
        names = [CLASSES[i] for i in sample.labels]
        write_objects(folder / f"data/labelTxt/{number}.txt", Objects(corners, names, sample.labels.numpy() * 0))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    places = [f"data.train={folder / 'data'}", f"data.classes={folder / 'classes.txt'}", "backbone.weights="]
    config = load_config(recipe, [*places, "data.workers=0", "data.image_size=0", *overrides])
    return Trainer(config, folder, "cpu", Problems(strict=True), Display(Console(quiet=True)))


@pytest.mark.slow
@pytest.mark.parametrize(("which", "optimizer"), [("convnext-tiny", "adamw"), ("r50", "sgd")])
def test_six_steps(which: str, optimizer: str, tmp_path: Path) -> None:
    facts = json.loads((GOLDEN / f"train_{which}_{optimizer}.json").read_text())
    shapes = json.loads((GOLDEN / f"{which}.json").read_text())["shapes"]
    image = torch.from_numpy(formula.image(5, 512, 512))
    samples = [Sample(image, torch.tensor(facts["gt_boxes"]), torch.tensor(facts["gt_labels"]))]

    trainer = trainer_of(tmp_path, RECIPES[which], ["backbone.drop_path=0.0"], samples)
    trainer.model.load_state_dict(reference_model(which, shapes, facts["salt"], ["backbone.drop_path=0.0"]).state_dict())
    trainer.steps_per_epoch = 10_000  # the reference's epochs are long: no decay within these six steps
    frozen = {name for name, p in trainer.model.named_parameters() if not p.requires_grad} - {
        "backbone.norm0.weight",  # never used, see Network
        "backbone.norm0.bias",
    }
    assert frozen == {own_name(name) for name in facts["frozen"]}

    for number, expected in enumerate(facts["steps"]):
        row = trainer.train_step([samples])
        tolerance = 1e-4 if number == 0 else 1e-2
        assert row["lr"] == pytest.approx(expected["lr"], rel=1e-9)
        assert row["loss_cls"] == pytest.approx(expected["loss_cls"], rel=tolerance)
        assert row["loss_box"] == pytest.approx(expected["loss_bbox"], rel=tolerance)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=max(tolerance, 1e-3))


def figures_of(key: str, value: Tensor, shape: list[int]) -> tuple[float, float]:
    """Norm of one of our tensors, and its inner product with the golden files' direction."""
    value = in_bgr(key, value).double()
    return value.norm().item(), (value.reshape(shape) * probe(key, shape)).sum().item()


def test_three_steps_of_rtmdet(tmp_path: Path) -> None:
    """Without warm-up, and with the average from the first step on."""
    facts, made = json.loads((GOLDEN / "rtmdet-train_tiny.json").read_text()), golden("tiny")
    samples = [Sample(*parts) for parts in zip(made.images, *made.targets, strict=True)]
    trainer = trainer_of(tmp_path, RTMDET, ["train.warmup_steps=0"], samples)
    trainer.model.load_state_dict(made.model.state_dict())
    trainer.steps_per_epoch = 10_000
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    parameters = dict(trainer.model.named_parameters())
    plain = {own_rtmdet_name(key) for key in facts["no_decay"]}
    assert {name for name, p in parameters.items() if decays[id(p)] == 0} == plain
    assert {decays[id(p)] for name, p in parameters.items() if name not in plain} == {facts["decay"]} == {0.05}

    for expected, losses, norm in zip(facts["steps"], (1e-5, 1e-4, 1e-3), (1e-4, 1e-3, 1e-2), strict=True):
        row = trainer.train_step([samples])
        assert row["lr"] == pytest.approx(expected["lr"], rel=1e-9)
        assert row["loss_cls"] == pytest.approx(expected["loss_cls"], rel=losses)
        assert row["loss_box"] == pytest.approx(expected["loss_bbox"], rel=losses)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=norm)

    for key, (norm, inner) in facts["change"].items():
        if "rtm_ang" in key:  # Adam's first steps follow the sign of gradients that cancel
            continue
        name = own_rtmdet_name(key)
        found = figures_of(key, parameters[name].detach() - before[name], made.facts["shapes"][key])
        assert found[0] == pytest.approx(norm, rel=0.01), key
        assert found[1] == pytest.approx(inner, abs=0.05 * norm), key

    buffers = dict(trainer.model.named_buffers())
    for key, expected in facts["running_after"].items():
        found = [buffers[f"{own_rtmdet_name(key)}.running_{which}"].mean().item() for which in ("mean", "var")]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), key

    current, averaged = trainer.model.state_dict(), trainer.averaged.model.state_dict()
    for key, distance in facts["ema_distance"].items():
        name = own_rtmdet_name(key)
        if "rtm_ang" not in key and not SHARED.match(name):
            rounding = 2**-23 * current[name].norm().item()
            assert (averaged[name] - current[name]).norm().item() == pytest.approx(distance, rel=0.02, abs=rounding), key
