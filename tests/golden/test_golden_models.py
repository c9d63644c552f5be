"""The three published systems against the reference's own outputs: maps, logits, losses, gradients, assignment, detections.

The weights are rebuilt from names and shapes (support/formula.py) and go through the same key maps as real checkpoints. Tolerances
are REFERENCE.md's: maps 1e-3 of their standard deviation, losses 1e-4, every detection above 0.35 with a partner of the same class,
IoU > 0.99 and score within 1e-3.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import formula
from places import GOLDEN
from reference_models import own_name, reference_model
from rotanext.heads.anchors import AnchorRule
from rotanext.heads.criterion import Targets, batch_losses, make_targets
from rotanext.inference.postprocess import detect
from rotanext.models.fast import for_inference
from rotanext.models.network import RetinaNet, flatten_levels
from rotanext.ops import assign_anchors, rotated_iou


@dataclass
class Run:
    """One forward and backward pass on the golden input, and the reference's figures."""

    figures: Any
    grad_norms: dict[str, float]
    model: RetinaNet
    maps: list[Tensor]
    pyramid: list[Tensor]
    logits: list[Tensor]
    deltas: list[Tensor]
    batch: Tensor
    targets: Targets
    anchors: AnchorRule


@pytest.fixture(scope="module", params=["convnext-tiny", "convnext-tiny_v1", "r50"])
def run(request: pytest.FixtureRequest) -> Run:
    figures = np.load(GOLDEN / f"{request.param}.npz")
    facts = json.loads((GOLDEN / f"{request.param}.json").read_text())
    anchors = "v0" if facts["v0"] else "v1"
    overrides = ["model.drop_path=0.0", f"model.anchors={anchors}"]
    model = reference_model(facts["which"], facts["shapes"], facts["salt"], overrides).train()
    image = formula.image(int(facts["image"].removeprefix("formula:")), 512, 512)
    batch = model.prepare([torch.from_numpy(image)])
    maps = model.backbone(batch)
    pyramid = model.fpn(maps[1:])
    logits, deltas = model.head(pyramid)
    boxes, labels = (torch.from_numpy(values) for values in formula.ground_truth(7, 24, 512, 512))
    targets = make_targets([tuple(x.shape[-2:]) for x in logits], [boxes], [labels], AnchorRule(anchors))
    losses = batch_losses(logits, deltas, targets, 15, "kld-stable")
    ((losses.classification + 5.5 * losses.regression) / losses.positives).backward()
    return Run(figures, facts["grad_norms"], model, maps, pyramid, logits, deltas, batch, targets, AnchorRule(anchors))


def assert_map(found: Tensor, expected: np.ndarray, name: str) -> None:
    deviation = np.abs(found.detach().numpy() - expected).max()
    limit = 1e-3 * expected.std() if expected.size > 1 else 1e-3 * np.abs(expected).max()
    assert deviation <= limit, f"{name}: off by {deviation}, allowed {limit}"


def test_input_is_normalised_alike(run: Run) -> None:
    np.testing.assert_allclose(run.batch.mean((0, 2, 3)).numpy(), run.figures["input_mean"], atol=1e-6)


def test_backbone_maps(run: Run) -> None:
    for level, found in enumerate(run.maps):
        assert list(found.shape) == run.figures[f"c{level}_shape"].tolist()
        assert_map(found[0, ::16, ::7, ::7], run.figures[f"c{level}"], f"c{level}")


def test_pyramid_and_head_maps(run: Run) -> None:
    for level in range(5):
        assert_map(run.pyramid[level][0, ::32, ::3, ::3], run.figures[f"p{level}"], f"p{level}")
        assert_map(run.logits[level][0, :, ::4, ::4], run.figures[f"cls{level}"], f"cls{level}")
        assert_map(run.deltas[level][0, :, ::4, ::4], run.figures[f"reg{level}"], f"reg{level}")


def test_anchors(run: Run) -> None:
    anchors = torch.cat(run.anchors.grid([tuple(x.shape[-2:]) for x in run.logits]))
    assert len(anchors) == run.figures["num_anchors"]
    np.testing.assert_allclose(anchors[::997].numpy(), run.figures["anchors_sample"], atol=1e-6)


@pytest.mark.usefixtures("each_implementation")
def test_assignment_of_every_anchor(run: Run) -> None:
    boxes = torch.from_numpy(run.figures["gt_boxes"])
    np.testing.assert_array_equal(assign_anchors(run.targets.anchors, boxes).numpy(), run.figures["assign_gt_inds"])
    np.testing.assert_array_equal(run.targets.assigned[0].numpy(), run.figures["assign_gt_inds"])
    best = rotated_iou(run.targets.anchors, boxes).amax(1)[::97]
    np.testing.assert_allclose(best.numpy(), run.figures["assign_max_iou"], atol=1e-5)


def test_losses_in_total_and_per_level(run: Run) -> None:
    positives = int((run.targets.assigned > 0).sum())
    totals = batch_losses(run.logits, run.deltas, run.targets, 15, "kld-stable")
    assert totals.classification.item() / positives == pytest.approx(float(run.figures["loss_cls"]), rel=1e-4)
    assert 5.5 * totals.regression.item() / positives == pytest.approx(float(run.figures["loss_bbox"]), rel=1e-4)

    counts = [x.shape[1] for x in flatten_levels(run.logits, run.deltas, 15)[0]]
    starts = np.cumsum([0, *counts])
    boxes, labels = torch.from_numpy(run.figures["gt_boxes"]), torch.from_numpy(run.figures["gt_labels"])
    for level, (start, count) in enumerate(zip(starts, counts, strict=False)):
        assigned = run.targets.assigned[:, start : start + count]
        objects = assigned[assigned > 0] - 1
        part = Targets(assigned, boxes[objects], labels[objects], run.targets.anchors[start : start + count])
        losses = batch_losses([run.logits[level]], [run.deltas[level]], part, 15, "kld-stable")
        expected = float(run.figures["loss_cls_levels"][level]), float(run.figures["loss_bbox_levels"][level])
        assert losses.classification.item() / positives == pytest.approx(expected[0], rel=1e-4)
        assert 5.5 * losses.regression.item() / positives == pytest.approx(expected[1], rel=1e-4, abs=1e-7)


def test_gradient_of_every_parameter(run: Run) -> None:
    found = {name: p.grad.norm().item() for name, p in run.model.named_parameters() if p.grad is not None}
    expected = {own_name(name): norm for name, norm in run.grad_norms.items()}
    assert found.keys() == expected.keys()
    for name, norm in expected.items():
        assert found[name] == pytest.approx(norm, rel=1e-3, abs=1e-6), name


def test_maps_of_the_network_rearranged_for_detecting(run: Run) -> None:
    with torch.inference_mode():
        logits, deltas = for_inference(run.model)(run.batch)
    for level in range(5):
        assert_map(logits[level][0, :, ::4, ::4], run.figures[f"cls{level}"], f"cls{level}")
        assert_map(deltas[level][0, :, ::4, ::4], run.figures[f"reg{level}"], f"reg{level}")


@pytest.mark.usefixtures("each_implementation")
def test_detections(run: Run) -> None:
    with torch.no_grad():
        logits, deltas = [x.detach() for x in run.logits], [x.detach() for x in run.deltas]
        ((boxes, scores, labels),) = detect(
            logits, deltas, [(512, 512)], num_classes=15, anchors=run.anchors,
            score_threshold=0.05, top_k=2000, iou_threshold=0.1, max_detections=2000,
        )  # fmt: skip
    expected = {name: torch.from_numpy(run.figures[f"det_{name}"]) for name in ("boxes", "scores", "labels")}
    wanted = expected["scores"] > 0.35
    assert int(wanted.sum()) > 200
    iou = rotated_iou(expected["boxes"][wanted], boxes)
    iou[expected["labels"][wanted][:, None] != labels[None]] = 0
    best, partner = iou.max(1)
    assert best.min() > 0.99
    assert (scores[partner] - expected["scores"][wanted]).abs().max() < 1e-3
    assert int((scores > 0.35).sum()) == int(wanted.sum()), "and no others"
