"""The loss of a batch under the anchors of RetinaNet: background, ignored anchors, and batches as sums of their images."""

import pytest
import torch
from torch import Tensor

from networks import small_config
from rotanext.heads.anchors import STRIDES, V0
from rotanext.heads.coding import encode
from rotanext.heads.contract import Candidates, Raw, Targets, rows
from rotanext.heads.losses import REGRESSION_LOSSES
from rotanext.heads.retina import Assigned, RetinaHead, assigned_losses

CLASSES = 3
SIDE = 128
SIZES = [(SIDE // s, SIDE // s) for s in STRIDES]
NONE = (torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
OBJECTS = (torch.tensor([[40.0, 40, 50, 20, 0.4], [90, 80, 30, 30, -0.8], [64, 64, 4, 3, 0.1]]), torch.tensor([2, 0, 1]))
OTHERS = (torch.tensor([[70.0, 30, 60, 40, -0.3]]), torch.tensor([1]))


def make_head(box_loss: str = "kld-stable") -> RetinaHead:
    config = small_config("convnext_atto", f"head.box_loss={box_loss}", "head.positive_iou=0.5", "head.negative_iou=0.4").head
    return config.build(8, STRIDES, CLASSES)


def head_and_maps(batch: int, dtype: torch.dtype = torch.float32, box_loss: str = "kld-stable") -> tuple[RetinaHead, Raw]:
    head = make_head(box_loss)
    raw = head([torch.randn(batch, 8, h, w) for h, w in SIZES])
    return head, Raw(*([x.to(dtype) for x in maps] for maps in raw))


def objects_of(*images: tuple[Tensor, Tensor]) -> Targets:
    return Targets([p[0] for p in images], [p[1] for p in images])


def targets_of(*images: tuple[Tensor, Tensor]) -> Assigned:
    return make_head().assign(SIZES, objects_of(*images))


def test_targets_name_each_positive_anchors_object() -> None:
    targets = targets_of(OBJECTS, NONE, OTHERS)
    anchors = torch.cat(V0.grid(SIZES))
    assert targets.objects.shape == (3, len(anchors))
    assert torch.equal(targets.anchors, anchors)
    assert (targets.objects[1] == 0).all()
    first, third = targets.objects[0], targets.objects[2]
    objects = first[first > 0] - 1
    count = len(objects)
    assert set(objects.tolist()) == {0, 1, 2}
    assert torch.equal(targets.boxes[:count], OBJECTS[0][objects])
    assert torch.equal(targets.labels[:count], OBJECTS[1][objects])
    assert torch.equal(targets.boxes[count:], OTHERS[0].expand(int((third > 0).sum()), 5))


@pytest.mark.parametrize("images", [[], [NONE], [NONE, NONE], [NONE, OBJECTS]], ids=["none", "one", "two", "mixed"])
@pytest.mark.parametrize("regression", list(REGRESSION_LOSSES))
def test_every_parameter_has_a_finite_gradient(images: list[tuple[Tensor, Tensor]], regression: str) -> None:
    head, raw = head_and_maps(len(images), box_loss=regression)
    sum(term.factor * term.sum for term in head.losses(raw, objects_of(*images)).terms.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_batch_without_objects_teaches_no_boxes() -> None:
    head, raw = head_and_maps(2)
    terms, positives = head.losses(raw, objects_of(NONE, NONE))
    assert positives.item() == terms["cls"].weight.item() == terms["box"].weight.item() == 0
    assert terms["box"].sum.item() == 0
    assert terms["cls"].sum.item() > 0
    terms["box"].sum.backward()
    for name, parameter in head.named_parameters():
        if name.startswith("reg"):
            assert (parameter.grad == 0).all(), name  # zero, not missing


def test_a_batch_is_the_sum_of_its_images() -> None:
    _, raw = head_and_maps(3)
    images = [OBJECTS, NONE, OTHERS]
    whole = assigned_losses(raw, targets_of(*images), CLASSES, "kld-stable")
    parts = [assigned_losses(raw.images(slice(i, i + 1)), targets_of(p), CLASSES, "kld-stable") for i, p in enumerate(images)]
    for found, expected in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(found, sum(expected))


def test_ignored_anchors_do_not_count() -> None:
    _, (logits, deltas) = head_and_maps(1)
    targets = targets_of(OBJECTS)
    ignored = targets.objects[0] == -1
    assert ignored.any()
    logits = [x.detach().requires_grad_() for x in logits]
    classification, _, _ = assigned_losses(Raw(logits, deltas), targets, CLASSES, "kld-stable")
    classification.backward()
    gradient = torch.cat(rows([x.grad for x in logits], CLASSES), 1)[0]
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] != 0).all()


def test_perfect_outputs_cost_nothing() -> None:
    targets = targets_of(OBJECTS)
    image, anchor = (targets.objects > 0).nonzero(as_tuple=True)
    flat_logits = torch.full((1, len(targets.anchors), CLASSES), -30.0)
    flat_logits[image, anchor, targets.labels] = 30
    flat_deltas = torch.zeros(1, len(targets.anchors), 5)
    flat_deltas[image, anchor] = encode(targets.anchors[anchor], targets.boxes)
    counts = [h * w * V0.per_position for h, w in SIZES]
    maps = [
        [part.reshape(1, h, w, -1).permute(0, 3, 1, 2) for part, (h, w) in zip(flat.split(counts, 1), SIZES, strict=True)]
        for flat in (flat_logits, flat_deltas)
    ]
    classification, box, positives = assigned_losses(Raw(*maps), targets, CLASSES, "kld-stable")
    assert classification.item() == pytest.approx(0, abs=1e-6)
    assert box.item() / len(anchor) == pytest.approx(0, abs=1e-4)
    assert positives.item() == len(anchor)


def test_half_precision_outputs_are_judged_in_float32() -> None:
    head, raw = head_and_maps(1, torch.bfloat16)
    assert {term.sum.dtype for term in head.losses(raw, objects_of(OBJECTS)).terms.values()} == {torch.float32}


@pytest.mark.parametrize("convention", ["v0", "v1"])
def test_the_section_tells_which_boxes_are_at_the_clamp(convention: str) -> None:
    """By boxes and numbers of priors alone, on every level and for every anchor of a position."""
    section = small_config("convnext_atto", f"head.anchors={convention}").head
    head = section.build(8, STRIDES, CLASSES)
    deltas = torch.randn(2, sum(h * w for h, w in SIZES) * head.priors, 5)
    clamped = torch.rand(deltas.shape[:2]) < 0.2
    deltas[..., 2] = torch.where(clamped, 6.0, deltas[..., 2])
    counts = [h * w * head.priors for h, w in SIZES]
    maps = [part.reshape(2, h, w, -1).permute(0, 3, 1, 2) for part, (h, w) in zip(deltas.split(counts, 1), SIZES, strict=True)]
    boxes = head.decode(Raw(maps, maps))
    image, prior = (values.flatten() for values in torch.meshgrid(torch.arange(2), torch.arange(sum(counts)), indexing="ij"))
    level = torch.bucketize(prior, torch.tensor(counts).cumsum(0), right=True)
    order = torch.randperm(len(prior))
    chosen = Candidates(image[order], level[order], prior[order])
    found = section.at_limit(boxes[chosen.image, chosen.prior], chosen, STRIDES)
    assert 0.1 < clamped.float().mean() < 0.3
    assert torch.equal(found, clamped[chosen.image, chosen.prior])
