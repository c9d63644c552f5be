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
from reference_models import RECIPES, own_name, reference_model
from rotanext.config import load_config
from rotanext.heads.anchors import AnchorRule
from rotanext.heads.contract import Candidates, Raw, Targets, rows
from rotanext.heads.retina import Assigned, assigned_losses
from rotanext.inference.postprocess import detect
from rotanext.models.fast import for_inference
from rotanext.models.network import Network
from rotanext.ops import assign_anchors, rotated_iou


@dataclass
class Run:
    """One forward and backward pass on the golden input, and the reference's figures."""

    figures: Any
    grad_norms: dict[str, float]
    model: Network
    maps: list[Tensor]
    pyramid: list[Tensor]
    raw: Raw
    batch: Tensor
    assigned: Assigned
    anchors: AnchorRule


@pytest.fixture(scope="module", params=["convnext-tiny", "convnext-tiny_v1", "r50"])
def run(request: pytest.FixtureRequest) -> Run:
    figures = np.load(GOLDEN / f"{request.param}.npz")
    facts = json.loads((GOLDEN / f"{request.param}.json").read_text())
    anchors = "v0" if facts["v0"] else "v1"
    overrides = ["backbone.drop_path=0.0", f"head.anchors={anchors}"]
    model = reference_model(facts["which"], facts["shapes"], facts["salt"], overrides).train()
    image = formula.image(int(facts["image"].removeprefix("formula:")), 512, 512)
    batch = model.prepare([torch.from_numpy(image)])
    maps = model.backbone(batch)
    pyramid = model.neck(maps[1:])
    raw = model.head(pyramid)
    boxes, labels = (torch.from_numpy(values) for values in formula.ground_truth(7, 24, 512, 512))
    targets = Targets([boxes], [labels])
    terms = model.head.losses(raw, targets).terms.values()
    sum(term.factor * term.sum / term.weight for term in terms).backward()
    assigned = model.head.assign([tuple(x.shape[-2:]) for x in raw.logits], targets)
    return Run(figures, facts["grad_norms"], model, maps, pyramid, raw, batch, assigned, AnchorRule(anchors))


def assert_map(found: Tensor, expected: np.ndarray, name: str) -> None:
    deviation = np.abs(found.detach().numpy() - expected).max()
    limit = 1e-3 * expected.std() if expected.size > 1 else 1e-3 * np.abs(expected).max()
    assert deviation <= limit, f"{name}: off by {deviation}, allowed {limit}"


def untold(boxes: Tensor, chosen: Candidates) -> Tensor:
    """Published systems keep what is at the clamp, so nobody asks."""
    raise AssertionError


def test_input_is_normalised_alike(run: Run) -> None:
    np.testing.assert_allclose(run.batch.mean((0, 2, 3)).numpy(), run.figures["input_mean"], atol=1e-6)


def test_backbone_maps(run: Run) -> None:
    for level, found in enumerate(run.maps):
        assert list(found.shape) == run.figures[f"c{level}_shape"].tolist()
        assert_map(found[0, ::16, ::7, ::7], run.figures[f"c{level}"], f"c{level}")


def test_pyramid_and_head_maps(run: Run) -> None:
    for level in range(5):
        assert_map(run.pyramid[level][0, ::32, ::3, ::3], run.figures[f"p{level}"], f"p{level}")
        assert_map(run.raw.logits[level][0, :, ::4, ::4], run.figures[f"cls{level}"], f"cls{level}")
        assert_map(run.raw.geometry[level][0, :, ::4, ::4], run.figures[f"reg{level}"], f"reg{level}")


def test_anchors(run: Run) -> None:
    anchors = torch.cat(run.anchors.grid([tuple(x.shape[-2:]) for x in run.raw.logits]))
    assert len(anchors) == run.figures["num_anchors"]
    np.testing.assert_allclose(anchors[::997].numpy(), run.figures["anchors_sample"], atol=1e-6)


@pytest.mark.usefixtures("each_implementation")
def test_assignment_of_every_anchor(run: Run) -> None:
    boxes = torch.from_numpy(run.figures["gt_boxes"])
    np.testing.assert_array_equal(assign_anchors(run.assigned.anchors, boxes).numpy(), run.figures["assign_gt_inds"])
    np.testing.assert_array_equal(run.assigned.objects[0].numpy(), run.figures["assign_gt_inds"])
    best = rotated_iou(run.assigned.anchors, boxes).amax(1)[::97]
    np.testing.assert_allclose(best.numpy(), run.figures["assign_max_iou"], atol=1e-5)


def test_losses_in_total_and_per_level(run: Run) -> None:
    positives = int((run.assigned.objects > 0).sum())
    classification, box, _ = assigned_losses(run.raw, run.assigned, 15, "kld-stable")
    assert classification.item() / positives == pytest.approx(float(run.figures["loss_cls"]), rel=1e-4)
    assert 5.5 * box.item() / positives == pytest.approx(float(run.figures["loss_bbox"]), rel=1e-4)

    counts = [x.shape[1] for x in rows(run.raw.logits, 15)]
    starts = np.cumsum([0, *counts])
    boxes, labels = torch.from_numpy(run.figures["gt_boxes"]), torch.from_numpy(run.figures["gt_labels"])
    for level, (start, count) in enumerate(zip(starts, counts, strict=False)):
        assigned = run.assigned.objects[:, start : start + count]
        objects = assigned[assigned > 0] - 1
        part = Assigned(assigned, boxes[objects], labels[objects], run.assigned.anchors[start : start + count])
        one_level = Raw([run.raw.logits[level]], [run.raw.geometry[level]])
        classification, box, _ = assigned_losses(one_level, part, 15, "kld-stable")
        expected = float(run.figures["loss_cls_levels"][level]), float(run.figures["loss_bbox_levels"][level])
        assert classification.item() / positives == pytest.approx(expected[0], rel=1e-4)
        assert 5.5 * box.item() / positives == pytest.approx(expected[1], rel=1e-4, abs=1e-7)


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
        raw = Raw(*([x.detach() for x in maps] for maps in run.raw))
        options = load_config(RECIPES["convnext-tiny"]).predict
        assert (options.score_threshold, options.top_k, options.iou_threshold, options.max_detections) == (0.05, 2000, 0.1, 2000)
        ((boxes, scores, labels),) = detect(raw, run.model.head, [(512, 512)], options, options.score_threshold, untold)
    expected = {name: torch.from_numpy(run.figures[f"det_{name}"]) for name in ("boxes", "scores", "labels")}
    wanted = expected["scores"] > 0.35
    assert int(wanted.sum()) > 200
    iou = rotated_iou(expected["boxes"][wanted], boxes)
    iou[expected["labels"][wanted][:, None] != labels[None]] = 0
    best, partner = iou.max(1)
    assert best.min() > 0.99
    assert (scores[partner] - expected["scores"][wanted]).abs().max() < 1e-3
    assert int((scores > 0.35).sum()) == int(wanted.sum()), "and no others"
