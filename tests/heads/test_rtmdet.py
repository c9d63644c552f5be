"""The head of RTMDet: what is shared over the levels, what its losses count, and what its section says of objects.

Its numbers: tests/golden/test_golden_rtmdet.py; the assignment: tests/ops/test_dynamic.py.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from rotanext.boxes import regularize
from rotanext.heads.contract import Candidates, Raw, Targets
from rotanext.heads.points import encode
from rotanext.heads.rtmdet import Assigned, RTMDetConfig, RTMDetHead

CLASSES, STRIDES, SIZES = 3, (8, 16, 32), [(16, 16), (8, 8), (4, 4)]
POINTS = sum(h * w for h, w in SIZES)
OBJECTS = (torch.tensor([[40.0, 40, 50, 20, 0.4], [90, 80, 30, 30, -0.8], [64, 64, 14, 9, 0.1]]), torch.tensor([2, 0, 1]))
NONE = (torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))


def section(**changes: object) -> RTMDetConfig:
    values = {"kind": "rtmdet", "stacked_convs": 2, "exponential": False, "offset": 0.0, "box_loss_weight": 2.0}
    return RTMDetConfig.model_validate(values | changes)


def make_head(**changes: object) -> RTMDetHead:
    return section(**changes).build(8, STRIDES, CLASSES)


def pyramid(batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, 8, h, w) for h, w in SIZES]


def raw_of(logits: Tensor, numbers: Tensor) -> Raw:
    """Raw outputs from `[B, P, C]` and `[B, P, 5]`."""
    counts = [h * w for h, w in SIZES]
    parts = [[part.mT.unflatten(2, size) for part, size in zip(x.split(counts, 1), SIZES, strict=True)] for x in (logits, numbers)]
    return Raw(*parts)


def objects_of(*images: tuple[Tensor, Tensor]) -> Targets:
    return Targets([boxes for boxes, _ in images], [labels for _, labels in images])


def test_convolutions_are_shared_over_the_levels_and_norms_are_not() -> None:
    head = make_head()
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes["cls_convs.1.weight"] == shapes["reg_convs.0.weight"] == (8, 8, 3, 3)
    assert {name for name in shapes if name.startswith("cls_norms")} == {
        f"cls_norms.{level}.{layer}.{leaf}" for level in range(3) for layer in range(2) for leaf in ("weight", "bias")
    }
    assert shapes["cls_out.2.weight"] == (CLASSES, 8, 1, 1)
    assert (shapes["reg_out.0.bias"], shapes["ang_out.1.bias"]) == ((4,), (1,))
    same = [torch.randn(1, 8, 6, 6)] * 3
    with torch.no_grad():
        for level in range(3):
            head.cls_out[level].load_state_dict(head.cls_out[0].state_dict())
        one, two, _ = head.eval()(same).logits
        assert torch.equal(one, two)
        head.cls_norms[1][0].running_mean += 1
        one, two, _ = head(same).logits
    assert not torch.equal(one, two)


def test_scores_start_at_one_in_a_hundred() -> None:
    with torch.no_grad():
        scores = torch.cat([level.flatten() for level in make_head()(pyramid(2)).logits]).sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("exponential", [False, True])
def test_distances_in_strides(exponential: bool, offset: float) -> None:
    head = make_head(exponential=exponential, offset=offset)
    numbers = torch.randn(1, POINTS, 5)
    boxes = head.decode(raw_of(torch.zeros(1, POINTS, CLASSES), numbers))[0]
    sides = numbers[0, 300, :4].exp() if exponential else numbers[0, 300, :4]  # of the second level: the 45th point
    left, top, right, bottom = (sides * 16).tolist()
    x, y, angle = (300 % 256 % 8 + offset) * 16, (300 % 256 // 8 + offset) * 16, numbers[0, 300, 4].item()
    u, v, c, s = (right - left) / 2, (bottom - top) / 2, math.cos(angle), math.sin(angle)
    expected = torch.tensor([x + c * u - s * v, y + s * u + c * v, left + right, top + bottom, angle])
    torch.testing.assert_close(boxes[300], regularize(expected))


def test_boxes_without_area_stay_such() -> None:
    numbers = torch.tensor([[-1.0, 1, 0.5, 1, 0.3], [1, -2, 1, 1, 0.3], [-1, -1, -1, -3, 0.3], [1, 1, -1, 1, 0.3]])
    wide = torch.zeros(1, POINTS, 5)
    wide[0, :4] = numbers
    boxes = make_head().decode(raw_of(torch.zeros(1, POINTS, CLASSES), wide))[0, :4]
    assert (boxes[:, 2] >= boxes[:, 3]).all()
    assert (boxes[:, 3] <= 0).all()


def perfect() -> tuple[RTMDetHead, Raw, Assigned]:
    """Outputs that say what the objects are, at the points inside of them."""
    head = make_head()
    boxes, labels = OBJECTS
    points, strides = head._grid(raw_of(torch.zeros(1, POINTS, CLASSES), torch.zeros(1, POINTS, 5)))
    nearest = (points[:, None] - boxes[None, :, :2]).norm(dim=2).argmin(1)
    numbers = encode(points, boxes[nearest])
    numbers = torch.cat([numbers[:, :4] / strides[:, None], numbers[:, 4:]], 1)
    inside = (numbers[:, :4] > 0.01).all(1)
    logits = torch.full((POINTS, CLASSES), -30.0)
    logits[inside, labels[nearest[inside]]] = 30.0
    raw = raw_of(logits[None], numbers[None])
    return head, raw, head.assign(raw, objects_of(OBJECTS))


def test_perfect_outputs_cost_nothing() -> None:
    head, raw, assigned = perfect()
    assert set(assigned.objects.unique().tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(assigned.quality, torch.ones_like(assigned.quality), rtol=0, atol=1e-4)
    terms, positives = head.losses(raw, objects_of(OBJECTS))
    assert positives == len(assigned.quality) == terms["box"].weight.round()
    assert terms["box"].sum.item() == pytest.approx(0, abs=1e-3)


def test_only_what_is_wrong_about_a_quality_costs() -> None:
    """A positive that is as sure as it is right costs what an even guess of that cannot avoid; a surer one costs more."""
    head, raw, assigned = perfect()
    image, point = (assigned.objects > 0).nonzero(as_tuple=True)
    costs = []
    for score in (0.3, 0.5, 0.9):
        flat = torch.full((1, POINTS, CLASSES), -30.0)
        flat[image, point, assigned.labels] = math.log(score / (1 - score))
        half = assigned._replace(quality=torch.full_like(assigned.quality, 0.5))
        costs.append(head.assigned_losses(raw_of(flat, torch.cat([x.flatten(2).mT for x in raw.geometry], 1)), half)[0].item())
    assert costs[1] == pytest.approx(0, abs=1e-5)
    assert costs[0] > 0.1
    assert costs[2] > costs[0]


def test_boxes_count_by_their_quality() -> None:
    head, raw, assigned = perfect()
    moved = assigned._replace(boxes=assigned.boxes + torch.tensor([3.0, 0, 0, 0, 0]))
    _, whole, weight, _ = head.assigned_losses(raw, moved)
    _, third, less, _ = head.assigned_losses(raw, moved._replace(quality=moved.quality / 3))
    assert third.item() == pytest.approx(whole.item() / 3, rel=1e-5)
    assert less.item() == pytest.approx(weight.item() / 3, rel=1e-5)
    assert whole > 0.1


def test_targets_have_no_gradient_and_boxes_do() -> None:
    head = make_head()
    raw = head(pyramid(2))
    assigned = head.assign(raw, objects_of(OBJECTS, NONE))
    assert not assigned.quality.requires_grad
    assert (assigned.objects[1] == 0).all()
    terms, _ = head.losses(raw, objects_of(OBJECTS, NONE))
    assert not terms["cls"].weight.requires_grad
    terms["box"].sum.backward()
    assert head.ang_out[0].weight.grad is not None
    assert head.cls_out[0].weight.grad is None


def test_norms_are_folded_level_by_level() -> None:
    head, maps = make_head().train(), pyramid(2)
    for _ in range(3):
        head([level * torch.randn(()) for level in maps])
    with torch.no_grad():
        expected = head.eval()(maps)
        made = copy.deepcopy(head)
        made.fold_norms()
        found = made(maps)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    for one, other in zip((*found.logits, *found.geometry), (*expected.logits, *expected.geometry), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_objects_smaller_than_a_cell_are_told() -> None:
    fits, small = torch.tensor([[50.0, 50, 9, 8, 0.1]]), torch.tensor([[50.0, 50, 6, 4, 0.1]])
    found = section().reach(torch.cat([fits.expand(9, 5), small]), STRIDES, "mine")
    assert found.fit.tolist() == pytest.approx([1.0] * 9 + [24 / 64])
    assert (found.fit < found.least).sum() == 1
    assert found.advice[0].startswith("10.0 % of the objects are smaller than a cell of 8 x 8 pixels")
    assert section().reach(fits, STRIDES, "mine").advice == ["The points fit: 100.0 % of the objects cover a cell of 8 x 8 pixels."]


@pytest.mark.parametrize("exponential", [False, True])
def test_only_exponentials_have_a_limit(exponential: bool) -> None:
    made = section(exponential=exponential)
    head = made.build(8, STRIDES, CLASSES)
    numbers = torch.zeros(1, POINTS, 5)
    numbers[0, ::2, 1] = 90.0  # one distance is enough
    boxes = head.decode(raw_of(torch.zeros(1, POINTS, CLASSES), numbers))[0]
    level = torch.repeat_interleave(torch.arange(3), torch.tensor([h * w for h, w in SIZES]))
    found = made.at_limit(boxes, Candidates(torch.zeros_like(level), level, torch.arange(POINTS)), STRIDES)
    assert torch.equal(found, torch.arange(POINTS) % 2 == 0) if exponential else not found.any()


def test_points_in_the_middle_of_cells() -> None:
    """Boxes are the same, half a stride further to the right and down."""
    head, middle = make_head(), make_head(offset=0.5)
    raw = raw_of(torch.randn(1, POINTS, CLASSES), torch.randn(1, POINTS, 5).abs())
    chosen = Candidates(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 2]), torch.tensor([5, 256 + 7, 256 + 64 + 3]))
    halves = torch.cat([torch.full((h * w,), stride / 2) for (h, w), stride in zip(SIZES, STRIDES, strict=True)])
    for pick in (None, chosen):
        moved = middle.decode(raw, pick) - head.decode(raw, pick)
        half = halves if pick is None else halves[pick.prior]
        assert torch.allclose(moved[..., :2], half[:, None].expand(-1, 2), atol=1e-4)
        assert torch.equal(moved[..., 2:], torch.zeros_like(moved[..., 2:]))
