"""RTMDet against the reference's own outputs: maps, boxes, assignment, losses, gradients, running statistics, detections.

The weights are rebuilt from names and shapes (support/formula_rtmdet.py). Tolerances are RTMDET.md's: maps, distances and angles
1e-3 of their standard deviation; losses 1e-4; assignments identical; IoUs of positives 1e-5; both figures of a gradient 1e-3 of its
norm, 3e-2 for the angles' outputs; detections as for RetinaNet.
"""

import copy
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from places import ROOT
from reference_rtmdet import Golden, golden, in_bgr, own_name, probe
from rotanext.heads import points as grids
from rotanext.heads.contract import Raw, Targets
from rotanext.heads.losses import quality_focal_loss, rotated_iou_loss
from rotanext.heads.rtmdet import Assigned
from rotanext.inference.postprocess import detect
from rotanext.models.fast import for_inference
from rotanext.models.network import Network
from rotanext.ops import rotated_iou

slow = pytest.mark.slow
FILES = ["tiny", "tiny_real", pytest.param("m", marks=slow), pytest.param("convnext-tiny_pafpn", marks=slow)]
every_file = pytest.mark.parametrize("name", FILES)
both_modes = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


@dataclass
class Run:
    """A forward and a backward pass over some of a file's images, with the reference's figures for it."""

    golden: Golden
    expected: dict[str, Any]
    batch: Tensor
    maps: list[Tensor]
    pyramid: list[Tensor]
    raw: Raw
    targets: Targets
    assigned: Assigned
    losses: dict[str, float]
    normaliser: float
    gradients: dict[str, Tensor]
    without_objects: dict[str, float]
    gradients_without_objects: dict[str, Tensor]

    @functools.cached_property
    def points(self) -> tuple[Tensor, Tensor]:
        sizes = [tuple(level.shape[2:]) for level in self.raw.logits]
        return grids.grid(sizes, self.golden.model.head.strides, 0.0, self.batch.device)

    @functools.cached_property
    def logits(self) -> Tensor:
        return torch.cat([level.flatten(2).mT for level in self.raw.logits], 1)

    @functools.cached_property
    def distances(self) -> Tensor:
        numbers = torch.cat([level.flatten(2).mT for level in self.raw.geometry], 1)
        return self.golden.model.head.distances(numbers, self.points[1])

    def levels(self, values: Tensor) -> list[Tensor]:
        """`[B, P, N]` of all levels as a map `[B, N, h, w]` of each."""
        sizes = [level.shape[2:] for level in self.raw.logits]
        parts = values.split([h * w for h, w in sizes], 1)
        return [part.mT.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def backward(model: Network, raw: Raw, targets: Targets, again: bool) -> tuple[dict[str, float], float, dict[str, Tensor]]:
    """The loss's terms, what they are divided by, and every parameter's gradient."""
    model.zero_grad()
    terms, _ = model.head.losses(raw, targets)
    parts = {key: term.factor * (term.sum / term.weight.clamp_min(1)) for key, term in terms.items()}
    sum(parts.values()).backward(retain_graph=again)  # type: ignore[union-attr]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {key: value.item() for key, value in parts.items()}, terms["cls"].weight.item(), gradients


@functools.cache
def run_of(name: str, training: bool) -> Run:
    folder = ROOT.parent / "shared"
    if name == "tiny_real" and not (folder / "data").is_dir():
        pytest.skip("the folder ../shared (real images, whose licences forbid copying them here) is not on this machine")
    made = golden(name, folder)
    count = 2 if training else 1
    targets = Targets(made.targets.boxes[:count], made.targets.labels[:count])
    none = Targets([boxes[:0] for boxes in targets.boxes], [labels[:0] for labels in targets.labels])
    model = made.model.train(training)
    batch = model.prepare(made.images[:count])
    maps = model.backbone(batch)
    pyramid = model.neck(maps[1:])
    raw = model.head(pyramid)
    losses, normaliser, gradients = backward(model, raw, targets, again=True)
    without_objects, _, others = backward(model, raw, none, again=False)
    maps, pyramid, *parts = ([level.detach() for level in part] for part in (maps, pyramid, *raw))
    raw = Raw(*parts)
    expected = made.facts["train" if training else "eval"]
    assigned = model.head.assign(raw, targets)
    return Run(made, expected, batch, maps, pyramid, raw, targets, assigned, losses, normaliser, gradients, without_objects, others)


def assert_map(found: Tensor, expected: np.ndarray, name: str) -> None:
    assert found.shape == expected.shape, name
    deviation, limit = np.abs(found.numpy() - expected).max(), 1e-3 * expected.std()
    assert deviation <= limit, f"{name}: off by {deviation}, allowed {limit}"


@every_file
def test_input_is_normalised_alike(name: str) -> None:
    run = run_of(name, False)
    np.testing.assert_allclose(run.batch.mean((0, 2, 3)).flip(0), run.golden.figures["input_mean_bgr"], atol=1e-6)


@every_file
def test_maps_of_backbone_and_neck(name: str) -> None:
    run, figures = run_of(name, False), run_of(name, False).golden.figures
    if "stem" in figures:
        model = run.golden.model.eval()
        with torch.no_grad():
            assert_map(model.backbone.stem(run.batch)[0, ::8, ::8, ::8], figures["stem"], "stem")
        assert_map(run.maps[0][0, ::8, ::8, ::8], figures["stage1"], "stage1")
    for level in range(3):
        assert_map(run.maps[level + 1][0, ::16, ::3, ::3], figures[f"c{level + 3}"], f"c{level + 3}")
        assert_map(run.pyramid[level][0, ::16, ::3, ::3], figures[f"p{level + 3}"], f"p{level + 3}")


@every_file
@both_modes
def test_maps_of_the_head(name: str, training: bool) -> None:
    run = run_of(name, training)
    assert_head_maps(run, run.raw.logits, run.levels(run.distances), training)


@every_file
def test_maps_of_the_network_rearranged_for_detecting(name: str) -> None:
    run = run_of(name, False)
    with torch.inference_mode():
        raw = for_inference(run.golden.model.eval())(run.batch)
    made = dataclasses.replace(run, raw=raw)
    assert_head_maps(made, raw.logits, made.levels(made.distances), False)


def assert_head_maps(run: Run, logits: list[Tensor], numbers: list[Tensor], training: bool) -> None:
    which, more = (slice(None), 2) if training else (0, 1)
    prefix = "train_" if training else ""
    for level in range(3):
        step = 8 >> level
        cls, reg, ang = logits[level], numbers[level][:, :4], numbers[level][:, 4:]
        assert_map(cls[which, :, :: step * more, :: step * more], run.golden.figures[f"{prefix}cls{level}"], f"cls{level}")
        step = (4 >> level) * more
        assert_map(reg[which, :, ::step, ::step], run.golden.figures[f"{prefix}reg{level}"], f"reg{level}")
        assert_map(ang[which, :, ::step, ::step], run.golden.figures[f"{prefix}ang{level}"], f"ang{level}")


@every_file
def test_decoded_boxes(name: str) -> None:
    """Before either side is made the longer one, as the reference has them."""
    run, expected = run_of(name, False), run_of(name, False).golden.figures["decoded"]
    found = grids.decode(run.points[0], run.distances)[0, ::13].numpy()
    difference = np.abs(found - expected)
    difference[:, 4] = np.minimum(difference[:, 4], np.pi - difference[:, 4])  # where the angle wraps around
    assert (difference.max(0) <= 1e-3 * expected.std(0)).all()


@every_file
@both_modes
def test_assignment_of_every_point(name: str, training: bool) -> None:
    run, figures = run_of(name, training), run_of(name, training).golden.figures
    prefix, ends = ("train_", "01") if training else ("", [""])
    for index, end in enumerate(ends):
        np.testing.assert_array_equal(run.assigned.objects[index].numpy(), figures[f"{prefix}assign{end}"])
    wanted = torch.from_numpy(np.concatenate([figures[f"{prefix}assign_iou{end}"] for end in ends]))
    differences = torch.stack([(quality - wanted).abs() for quality in qualities(run, training)])
    assert differences.amin(0).max() <= 1e-5
    torch.testing.assert_close(run.assigned.quality, wanted, rtol=0, atol=1e-4)
    assert run.normaliser == pytest.approx(run.expected["normaliser"], rel=1e-5)


def qualities(run: Run, training: bool) -> list[Tensor]:
    """The IoUs of the positives by the same network in float64, and in float32 on maps laid out as the reference has them.

    The tolerance is about what is left of float32 after so many layers (up to 2e-5 between two layouts, and 1.3e-5 between the
    reference and float64), so the nearer one of the two counts.
    """
    made, found = run.golden, []
    for dtype in (torch.float64, torch.float32):
        model = copy.deepcopy(made.model).to(dtype).to(memory_format=torch.contiguous_format).train(training)
        with torch.no_grad():
            found.append(model.head.assign(model(run.batch.to(dtype).contiguous()), run.targets).quality)
    return found


def losses_of_levels(run: Run, quality: Tensor, objects: Tensor) -> dict[str, list[float]]:
    """The classification's and the boxes' sums of every level, from functions alone."""
    positive = objects > 0
    labels, wanted = torch.full_like(objects, 15), torch.zeros_like(run.logits[..., 0])  # 15: no class
    image, point = positive.nonzero(as_tuple=True)
    labels[image, point], wanted[image, point] = run.assigned.labels[: len(image)], quality
    cls = quality_focal_loss(run.logits.flatten(0, 1), labels.flatten(), wanted.flatten()).view_as(wanted).sum(0)
    box = torch.zeros_like(cls)
    if len(image):
        boxes = grids.decode(run.points[0], run.distances)[image, point]
        box.index_add_(0, point, rotated_iou_loss(boxes, run.assigned.boxes) * quality)
    counts = [level.shape[2] * level.shape[3] for level in run.raw.logits]
    return {key: [part.sum().item() for part in values.split(counts)] for key, values in (("cls", cls), ("box", box))}


@every_file
@both_modes
def test_losses_in_total_and_per_level(name: str, training: bool) -> None:
    run = run_of(name, training)
    assert run.losses["cls"] == pytest.approx(run.expected["loss_cls"], rel=1e-4)
    assert run.losses["box"] == pytest.approx(run.expected["loss_bbox"], rel=1e-4)
    parts = losses_of_levels(run, run.assigned.quality, run.assigned.objects)
    for level in range(3):
        assert parts["cls"][level] / run.normaliser == pytest.approx(run.expected["loss_cls_levels"][level], rel=1e-4)
        assert 2 * parts["box"][level] / run.normaliser == pytest.approx(run.expected["loss_bbox_levels"][level], rel=1e-4)


@every_file
@both_modes
def test_gradient_of_every_parameter(name: str, training: bool) -> None:
    run = run_of(name, training)
    expected, shapes = run.expected["grads"], run.golden.facts["shapes"]
    assert {own_name(key) for key in expected} == run.gradients.keys()
    wrong = []
    for key, (norm, inner) in expected.items():
        if key in run.expected.get("no_meaning", ()):
            continue
        gradient = in_bgr(key, run.gradients[own_name(key)]).double()
        tolerance = (3e-2 if "rtm_ang" in key else 1e-3) * norm
        found = gradient.norm().item(), (gradient.reshape(shapes[key]) * probe(key, shapes[key])).sum().item()
        if max(abs(found[0] - norm), abs(found[1] - inner)) > tolerance:
            wrong.append((key, found, (norm, inner)))
    assert wrong == []


@every_file
def test_running_statistics_after_a_step(name: str) -> None:
    run = run_of(name, True)
    buffers = dict(run.golden.model.named_buffers())
    for key, (mean, mean_spread, variance, variance_spread) in run.expected["running_after"].items():
        found = [buffers[f"{own_name(key)}.running_{which}"].double() for which in ("mean", "var")]
        figures = [figure for values in found for figure in (values.mean().item(), values.std().item())]
        assert figures == pytest.approx([mean, mean_spread, variance, variance_spread], rel=1e-3, abs=1e-4), key


@every_file
def test_a_batch_without_objects(name: str) -> None:
    run, expected = run_of(name, True), run_of(name, True).golden.facts["train_no_objects"]
    assert run.without_objects["cls"] == pytest.approx(expected["loss_cls"], rel=1e-4)
    assert run.without_objects["box"] == expected["loss_bbox"] == 0
    parts = losses_of_levels(run, torch.zeros(0), torch.zeros_like(run.assigned.objects))
    assert parts["cls"] == pytest.approx(expected["loss_cls_levels"], rel=1e-4)
    gradients = run.gradients_without_objects
    assert gradients.keys() == run.gradients.keys()
    assert expected["without_gradient"] == []
    nothing = {name for name, gradient in gradients.items() if not gradient.any()}
    assert nothing >= {own_name(key) for key in expected["zero_gradient"]}
    total = torch.stack([gradient.double().norm() for gradient in gradients.values()]).norm().item()
    assert total == pytest.approx(expected["grad_norm"], rel=1e-3)


@every_file
@pytest.mark.usefixtures("each_implementation")
def test_detections(name: str) -> None:
    run, options = run_of(name, False), run_of(name, False).golden.config.predict
    assert (options.score_threshold, options.top_k, options.iou_threshold, options.max_detections) == (0.05, 2000, 0.1, 2000)
    head, size = run.golden.model.head, tuple(run.golden.images[0].shape[:2])
    ((boxes, scores, labels),) = detect(run.raw, head, [size], options, options.score_threshold, lambda *_: pytest.fail("off"))
    assert len(boxes) == run.golden.facts["det_above_0.05"]
    limit = run.golden.facts["det_threshold"]
    expected = {key: torch.from_numpy(run.golden.figures[f"det_{key}"]) for key in ("boxes", "scores", "labels")}
    assert expected["scores"].min() > limit
    iou = rotated_iou(expected["boxes"], boxes)
    iou[expected["labels"][:, None] != labels[None]] = 0
    best, partner = iou.max(1)
    assert best.min() > 0.99
    assert (scores[partner] - expected["scores"]).abs().max() < 1e-3
    assert int((scores > limit).sum()) == len(expected["scores"]), "and no others"
