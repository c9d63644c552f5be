"""The training loss of a batch: background, ignored anchors, and batches as sums of their images."""

import pytest
import torch
from torch import Tensor, nn

from rotanext.heads.anchors import STRIDES, V0
from rotanext.heads.coding import encode
from rotanext.heads.criterion import Targets, batch_losses, make_targets
from rotanext.heads.losses import REGRESSION_LOSSES
from rotanext.models.network import RetinaHead, flatten_levels

CLASSES = 3
SIDE = 128
SIZES = [(SIDE // s, SIDE // s) for s in STRIDES]
NONE = (torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
OBJECTS = (torch.tensor([[40.0, 40, 50, 20, 0.4], [90, 80, 30, 30, -0.8], [64, 64, 4, 3, 0.1]]), torch.tensor([2, 0, 1]))
OTHERS = (torch.tensor([[70.0, 30, 60, 40, -0.3]]), torch.tensor([1]))


def head_and_maps(batch: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, list[Tensor], list[Tensor]]:
    head = RetinaHead(8, 1, CLASSES, V0.per_position)
    logits, deltas = head([torch.randn(batch, 8, h, w) for h, w in SIZES])
    return head, [x.to(dtype) for x in logits], [x.to(dtype) for x in deltas]


def targets_of(*images: tuple[Tensor, Tensor]) -> Targets:
    return make_targets(SIZES, [p[0] for p in images], [p[1] for p in images], V0)


def test_targets_name_each_positive_anchors_object() -> None:
    targets = targets_of(OBJECTS, NONE, OTHERS)
    anchors = torch.cat(V0.grid(SIZES))
    assert targets.assigned.shape == (3, len(anchors))
    assert torch.equal(targets.anchors, anchors)
    assert (targets.assigned[1] == 0).all()
    first, third = targets.assigned[0], targets.assigned[2]
    objects = first[first > 0] - 1
    count = len(objects)
    assert set(objects.tolist()) == {0, 1, 2}
    assert torch.equal(targets.boxes[:count], OBJECTS[0][objects])
    assert torch.equal(targets.labels[:count], OBJECTS[1][objects])
    assert torch.equal(targets.boxes[count:], OTHERS[0].expand(int((third > 0).sum()), 5))


@pytest.mark.parametrize("images", [[NONE], [NONE, NONE], [NONE, OBJECTS]], ids=["one", "two", "mixed"])
@pytest.mark.parametrize("regression", list(REGRESSION_LOSSES))
def test_every_parameter_has_a_finite_gradient(images: list[tuple[Tensor, Tensor]], regression: str) -> None:
    head, logits, deltas = head_and_maps(len(images))
    losses = batch_losses(logits, deltas, targets_of(*images), CLASSES, regression)
    (losses.classification + losses.regression).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_batch_without_objects_teaches_no_boxes() -> None:
    head, logits, deltas = head_and_maps(2)
    losses = batch_losses(logits, deltas, targets_of(NONE, NONE), CLASSES, "kld-stable")
    assert losses.positives.item() == 0
    assert losses.regression.item() == 0
    assert losses.classification.item() > 0
    losses.regression.backward()
    for name, parameter in head.named_parameters():
        if name.startswith("reg"):
            assert (parameter.grad == 0).all(), name  # zero, not missing


def test_a_batch_is_the_sum_of_its_images() -> None:
    _, logits, deltas = head_and_maps(3)
    images = [OBJECTS, NONE, OTHERS]
    whole = batch_losses(logits, deltas, targets_of(*images), CLASSES, "kld-stable")
    parts = [
        batch_losses([x[i : i + 1] for x in logits], [x[i : i + 1] for x in deltas], targets_of(p), CLASSES, "kld-stable")
        for i, p in enumerate(images)
    ]
    for found, expected in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(found, sum(expected))


def test_ignored_anchors_do_not_count() -> None:
    _, logits, deltas = head_and_maps(1)
    targets = targets_of(OBJECTS)
    ignored = targets.assigned[0] == -1
    assert ignored.any()
    logits = [x.detach().requires_grad_() for x in logits]
    before = batch_losses(logits, deltas, targets, CLASSES, "kld-stable")
    before.classification.backward()
    gradient = torch.cat(flatten_levels([x.grad for x in logits], deltas, CLASSES)[0], 1)[0]
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] != 0).all()


def test_perfect_outputs_cost_nothing() -> None:
    targets = targets_of(OBJECTS)
    image, anchor = (targets.assigned > 0).nonzero(as_tuple=True)
    flat_logits = torch.full((1, len(targets.anchors), CLASSES), -30.0)
    flat_logits[image, anchor, targets.labels] = 30
    flat_deltas = torch.zeros(1, len(targets.anchors), 5)
    flat_deltas[image, anchor] = encode(targets.anchors[anchor], targets.boxes)
    counts = [h * w * V0.per_position for h, w in SIZES]
    maps = [
        [part.reshape(1, h, w, -1).permute(0, 3, 1, 2) for part, (h, w) in zip(flat.split(counts, 1), SIZES, strict=True)]
        for flat in (flat_logits, flat_deltas)
    ]
    losses = batch_losses(*maps, targets, CLASSES, "kld-stable")
    assert losses.classification.item() == pytest.approx(0, abs=1e-6)
    assert losses.regression.item() / len(anchor) == pytest.approx(0, abs=1e-4)
    assert losses.positives.item() == len(anchor)


def test_half_precision_outputs_are_judged_in_float32() -> None:
    _, logits, deltas = head_and_maps(1, torch.bfloat16)
    losses = batch_losses(logits, deltas, targets_of(OBJECTS), CLASSES, "kld-stable")
    assert losses.classification.dtype == losses.regression.dtype == torch.float32
