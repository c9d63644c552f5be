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
from rotanext.heads.losses import FOCAL_ALPHA, FOCAL_GAMMA, REGRESSION_LOSSES, focal_loss, gwd_loss, kld_loss, kld_root_loss

GOLDEN = places.GOLDEN / "functions.npz"
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
