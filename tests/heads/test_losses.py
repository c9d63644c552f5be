"""Losses: the reference's figures, torchvision's focal loss, and finite values and gradients on every input."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

import places
from rotanext.heads.losses import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    REGRESSION_LOSSES,
    focal_loss,
    gwd_loss,
    kld_loss,
    kld_root_loss,
    quality_focal_loss,
    rotated_iou_loss,
)
from rotanext.ops import rotated_iou_pairs

GOLDEN = places.GOLDEN / "functions.npz"
RTMDET = places.GOLDEN / "rtmdet-functions.npz"
HALF = math.pi / 2
Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: list[Loss] = [kld_loss, kld_root_loss, gwd_loss]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=["kld-stable", "kld", "gwd"])


def value_and_gradients(loss: Loss, pred: list[list[float]], target: list[list[float]]) -> tuple[Tensor, Tensor, Tensor]:
    p, t = (torch.tensor(rows, dtype=torch.float32, requires_grad=True) for rows in (pred, target))
    values = loss(p, t)
    values.sum().backward()
    return values.detach(), p.grad, t.grad


@pytest.mark.parametrize(
    ("loss", "name"), [(kld_loss, "kld_stable"), (kld_root_loss, "kld"), (gwd_loss, "gwd")], ids=["stable", "kld", "gwd"]
)
def test_against_the_reference(loss: Loss, name: str) -> None:
    golden = np.load(GOLDEN)
    values, gradient, _ = value_and_gradients(loss, golden["kld_pred"].tolist(), golden["kld_target"].tolist())
    np.testing.assert_allclose(values.numpy(), golden[f"{name}_loss"], rtol=1e-4)
    # Components near 0 are differences of large ones: 1e-4 of the pair's largest component as well.
    expected = golden[f"{name}_grad"]
    assert (np.abs(gradient.numpy() - expected) <= 1e-4 * (np.abs(expected) + np.abs(expected).max(1, keepdims=True))).all()


EXTREME = [
    ("identical", [50, 50, 40, 20, 0.3], [50, 50, 40, 20, 0.3]),
    ("nearly", [50, 50, 40, 20, 0.3], [50, 50, 40.000004, 20, 0.3]),
    ("quarter", [50, 50, 40, 20, 0.3], [50, 50, 40, 20, 0.3 + HALF]),
    ("quarter-slender", [50, 50, 1000, 1e-3, 0.3], [50, 50, 1000, 1e-3, 0.3 + HALF]),
    ("smallest", [50, 50, 1e-7, 1e-7, 0], [50, 50, 1e-7, 1e-7, 0]),
    ("largest", [50, 50, 1e7, 1e7, 0], [50, 50, 1e7, 1e7, 1]),
    ("small-large", [50, 50, 1e-7, 1e-7, 0], [50, 50, 1e7, 1e7, 1]),
    ("large-small", [50, 50, 1e7, 1e7, 0], [50, 50, 1e-7, 1e-7, 1]),
    ("hairs-crossed", [50, 50, 1e7, 1e-7, 0], [50, 50, 1e7, 1e-7, HALF]),
    ("beyond-the-clamp", [50, 50, 1e12, 1e-20, 0], [50, 50, 1e-20, 1e12, 1]),
    ("no-size", [50, 50, 0, 0, 0], [50, 50, 0, 0, 0]),
    ("no-size-target", [50, 50, 10, 5, 0], [50, 50, 0, 0, 0]),
    ("far", [0, 0, 10, 5, 0], [1e6, -1e6, 10, 5, 1]),
    ("far-and-small", [0, 0, 1e-7, 1e-7, 0.5], [1e6, -1e6, 1e-7, 1e-7, 1]),
    ("far-slender", [0, 0, 1e7, 1e-7, 0.5], [1e6, -1e6, 10, 5, 1]),
]


@every_loss
@pytest.mark.parametrize(("pred", "target"), [row[1:] for row in EXTREME], ids=[row[0] for row in EXTREME])
def test_finite_and_bounded_on_extreme_boxes(loss: Loss, pred: list[float], target: list[float]) -> None:
    values, *gradients = value_and_gradients(loss, [pred], [target])
    assert 0 <= values.item() < 1
    assert all(torch.isfinite(g).all() for g in gradients)


side = st.floats(-7, 7).map(lambda power: 10**power)
coordinate = st.floats(-1e6, 1e6)
any_box = st.tuples(coordinate, coordinate, side, side, st.floats(-10, 10)).map(list)


@every_loss
@given(pred=any_box, target=any_box, same_centre=st.booleans())
def test_finite_and_bounded_on_any_boxes(loss: Loss, pred: list[float], target: list[float], same_centre: bool) -> None:
    if same_centre:
        target = [*pred[:2], *target[2:]]
    values, *gradients = value_and_gradients(loss, [pred], [target])
    assert 0 <= values.item() < 1
    assert all(torch.isfinite(g).all() for g in gradients)


@every_loss
def test_least_for_identical_boxes_and_growing_with_every_difference(loss: Loss) -> None:
    target = torch.tensor([[50.0, 40, 30, 12, 0.4]])
    least = loss(target, target).item()
    assert least == pytest.approx(0, abs=1e-3)
    for component, step in enumerate([1.0, 1.0, 3.0, 3.0, 0.2]):
        grown = []
        for times in (1, 2, 3):
            changed = target.clone()
            changed[0, component] += times * step
            grown.append(loss(changed, target).item())
        assert least < grown[0] < grown[1] < grown[2], f"component {component}"


@every_loss
def test_both_descriptions_of_a_box_are_equal(loss: Loss) -> None:
    target = torch.tensor([[50.0, 40, 30, 12, 0.4]])
    pred = torch.tensor([[52.0, 41, 25, 10, -0.2], [52.0, 41, 10, 25, HALF - 0.2], [52.0, 41, 25, 10, math.pi - 0.2]])
    values = loss(pred, target.expand(3, 5))
    torch.testing.assert_close(values, values[:1].expand(3), rtol=1e-4, atol=1e-6)


def test_divergence_by_its_definition() -> None:
    """D_KL(target || prediction) with explicit covariance matrices."""
    rng = np.random.default_rng(0)
    pred, target = (rng.uniform([0, 0, 5, 5, -2], [20, 20, 40, 40, 2], (50, 5)) for _ in range(2))

    def covariance(box: np.ndarray) -> np.ndarray:
        turn = np.array([[np.cos(box[4]), -np.sin(box[4])], [np.sin(box[4]), np.cos(box[4])]])
        return turn @ np.diag((box[2:4] / 2) ** 2) @ turn.T

    for p, t, value in zip(pred, target, kld_loss(torch.from_numpy(pred), torch.from_numpy(target)), strict=True):
        cov_p, cov_t, shift = covariance(p), covariance(t), p[:2] - t[:2]
        logarithm = math.log(np.linalg.det(cov_p) / np.linalg.det(cov_t))
        d = (shift @ np.linalg.solve(cov_p, shift) + np.trace(np.linalg.solve(cov_p, cov_t)) + logarithm) / 2 - 1
        assert value.item() == pytest.approx(1 - 1 / (1 + math.log1p(d)), rel=1e-9)


def test_half_precision_is_computed_in_float32() -> None:
    boxes = torch.tensor([[500.0, 400, 300, 2, 0.5]], dtype=torch.bfloat16)
    assert kld_loss(boxes, boxes).dtype == torch.float32


def test_no_boxes() -> None:
    for loss in REGRESSION_LOSSES.values():
        assert loss(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)


@pytest.mark.parametrize("scale", [1, 10, 200], ids=["usual", "sure", "certain"])
def test_focal_loss_against_torchvision(scale: float) -> None:
    ours, theirs = (scale * torch.randn(64, 15, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    targets = (torch.rand(64, 15) < 0.1).float()
    found = focal_loss(ours.requires_grad_(), targets)
    expected = sigmoid_focal_loss(theirs.requires_grad_(), targets, FOCAL_ALPHA, FOCAL_GAMMA)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.isfinite(ours.grad).all()


# RTMDet's losses


def test_quality_focal_loss_against_the_reference() -> None:
    golden = np.load(RTMDET)
    logits = torch.from_numpy(golden["qfl_logits"]).requires_grad_()
    found = quality_focal_loss(logits, torch.from_numpy(golden["qfl_labels"]), torch.from_numpy(golden["qfl_scores"]))
    np.testing.assert_allclose(found.detach().numpy(), golden["qfl_loss"], rtol=1e-4)
    found.sum().backward()
    expected = golden["qfl_grad"]
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert found.sum().item() == pytest.approx(golden["qfl_total"].item(), rel=1e-4)


def test_quality_focal_loss_by_its_definition() -> None:
    logits = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    labels, quality = torch.arange(40) % 4, torch.rand(40, dtype=torch.float64)  # label 3 is no class
    expected = []
    for row, label, wanted in zip(logits.detach(), labels, quality, strict=True):
        scores, y = row.sigmoid(), torch.zeros(3, dtype=torch.float64)
        if label < 3:
            y[label] = wanted
        entropy = -y * scores.log() - (1 - y) * (1 - scores).log()
        expected.append((entropy * (y - scores).abs() ** 2).sum())
    torch.testing.assert_close(quality_focal_loss(logits, labels, quality).detach(), torch.stack(expected))
    assert torch.autograd.gradcheck(lambda x: quality_focal_loss(x, labels, quality), (logits,))
    nothing = quality_focal_loss(logits, labels, quality * 0)
    torch.testing.assert_close(nothing, quality_focal_loss(logits, torch.full((40,), -1), quality))


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_quality_focal_loss_is_finite(scale: float) -> None:
    logits = (scale * torch.randn(64, 15)).requires_grad_()
    found = quality_focal_loss(logits, torch.randint(0, 16, (64,)), torch.rand(64).round())
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logits.grad).all()
    assert quality_focal_loss(torch.zeros(0, 15), torch.zeros(0, dtype=torch.int64), torch.zeros(0)).shape == (0,)
    assert quality_focal_loss(logits.bfloat16(), torch.zeros(64, dtype=torch.int64), torch.zeros(64)).dtype == torch.float32


NO_VALUE = ("touching along an edge", "negative width")  # defects of the reference
NO_GRADIENT = ("identical", "shifted along its axis", "touching along an edge", "thin", "negative width")  # or kinks


@pytest.mark.usefixtures("each_implementation")
def test_iou_loss_against_the_reference() -> None:
    golden = np.load(RTMDET)
    pred, target = torch.from_numpy(golden["iou_pred"]).requires_grad_(), torch.from_numpy(golden["iou_target"])
    names = [""] * 64 + golden["iou_special_names"].tolist()
    found = rotated_iou_loss(pred, target)
    found.sum().backward()
    values = np.array([name not in NO_VALUE for name in names])
    np.testing.assert_allclose(found.detach().numpy()[values], golden["iou_loss"][values], rtol=0, atol=4e-5)
    expected, rows = golden["iou_grad"], np.array([not name.startswith(NO_GRADIENT) for name in names])
    assert rows.sum() == 76 - 7
    assert np.abs(pred.grad.numpy() - expected)[rows].max() <= 2e-5 * np.abs(expected[rows]).max()
    exact = 1 - np.maximum(golden["iou_exact"], 1e-6)
    np.testing.assert_allclose(found.detach().numpy()[:-2], exact[:-2], rtol=0, atol=1e-6)
    touching = names.index("touching along an edge")
    assert found[touching].item() == pytest.approx(1 - 1e-6, abs=1e-7)  # and not 2/3
    weighted = (found.detach() * torch.from_numpy(golden["iou_weight"])).numpy()[values].sum() * 2
    theirs = (golden["iou_loss"] * golden["iou_weight"])[values].sum() * 2
    assert weighted == pytest.approx(theirs, rel=1e-5)


@pytest.mark.usefixtures("each_implementation")
def test_iou_loss_by_differences() -> None:
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.uniform([0, 0, 5, 5, -2], [20, 20, 40, 40, 2], (30, 5)))
    pred = (target + torch.from_numpy(rng.normal(0, 1, (30, 5))) * torch.tensor([2, 2, 2, 2, 0.3])).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotated_iou_loss(x, target), (pred,), eps=1e-7, atol=1e-4)


@pytest.mark.usefixtures("each_implementation")
def test_negative_sides_are_pulled_back() -> None:
    """A step against the gradient never makes such a side more negative, and never makes the loss worse."""
    rng = np.random.default_rng(1)
    target = torch.from_numpy(rng.uniform([0, 0, 5, 5, -2], [20, 20, 40, 40, 2], (400, 5))).float()
    pred = target + torch.from_numpy(rng.normal(0, 1, (400, 5))).float() * torch.tensor([4, 4, 2, 2, 0.3])
    pred[:200, 2], pred[100:300, 3] = -torch.rand(200) * 20, -torch.rand(200) * 20
    pred[300:, 2] = torch.rand(100) * 1e-3
    pred.requires_grad_()
    loss = rotated_iou_loss(pred, target)
    loss.sum().backward()
    short = pred[:, 2:4] < 1e-3
    assert (pred.grad[:, 2:4][short] <= 0).all()
    assert (pred.grad[:, 2:4][short & ~short.all(1, keepdim=True)] < 0).float().mean() > 0.9
    assert not pred.grad[short.all(1)].any()
    as_assigned = pred.detach().clone()
    as_assigned[:, 2:4].clamp_(min=1e-3)
    torch.testing.assert_close(loss.detach(), 1 - rotated_iou_pairs(as_assigned, target).clamp_min(1e-6))
    unit = pred.grad / pred.grad.norm(dim=1, keepdim=True).clamp_min(1e-12)
    for step in (1e-4, 1e-2):
        assert (rotated_iou_loss(pred - step * unit, target) <= loss + 1e-6).all()


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("box", [row[1] for row in EXTREME] + [[math.nan] * 5, [math.inf, 0, 5, 5, 0], [0, 0, math.inf, 5, 0]])
def test_iou_loss_is_finite_and_bounded(box: list[float]) -> None:
    for other in ([50.0, 50, 40, 20, 0.3], [50.0, 50, 40, -20, 0.3], box):
        for pred, target in ((box, other), (other, box)):
            values, *gradients = value_and_gradients(rotated_iou_loss, [pred], [target])
            assert 0 <= values.item() < 1
            assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.usefixtures("each_implementation")
def test_a_perfect_prediction_has_no_loss_and_no_gradient() -> None:
    box = [[50.0, 40, 30, 12, 0.4], [50.0, 40, 30, 30, -1]]
    values, gradient, _ = value_and_gradients(rotated_iou_loss, box, box)
    assert values.tolist() == [0, 0]
    assert gradient.abs().max() < 1e-7
    values, *gradients = value_and_gradients(rotated_iou_loss, box, [[500.0, 40, 30, 12, 0.4]] * 2)
    assert values.tolist() == pytest.approx([1 - 1e-6] * 2)
    assert not torch.cat(gradients).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_iou_loss_under_autocast_is_that_of_float32(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(2)
    target = torch.from_numpy(rng.uniform([900, 900, 5, 5, -2], [950, 950, 40, 40, 2], (50, 5))).float()
    boxes = target + 1
    expected, wanted = rotated_iou_loss(boxes.requires_grad_(), target), boxes
    (gradient,) = torch.autograd.grad(expected.sum(), wanted)
    with torch.autocast("cpu", dtype):
        found = rotated_iou_loss(boxes, target)
        (same,) = torch.autograd.grad(found.sum(), boxes)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(same, gradient)
    assert rotated_iou_loss(boxes.to(dtype), target.to(dtype)).dtype == torch.float32
    assert rotated_iou_loss(boxes[:0], target[:0]).shape == (0,)
