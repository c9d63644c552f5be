"""Batch norm as we train it, and put into the convolution before it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rotanext.layers import BatchNorm2d, conv_norm, folded
from rotanext.models.depthwise import DepthwiseConv


def maps(*shape: int, spread: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * spread + 0.5).contiguous(memory_format=torch.channels_last)


def norm_of(channels: int) -> BatchNorm2d:
    made = BatchNorm2d(channels)
    nn.init.normal_(made.weight, 1.0, 0.2)
    nn.init.normal_(made.bias)
    return made


def trained(norm: nn.BatchNorm2d, x: Tensor, direction: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers after a step in training mode."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm.train()(x)
    gradients = torch.autograd.grad(y, [x, norm.weight, norm.bias], direction.to(y.dtype))
    return {"y": y.detach(), **dict(zip(("x", "weight", "bias"), gradients, strict=True)), **dict(norm.named_buffers())}


@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 3, 2, 4), (3, 4, 1, 1), (2, 12, 256, 256)], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_computes_what_torch_does_in_float64(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    """Statistics to seven digits: torch's own on channels-last maps are 1e-5 off on the largest of these."""
    norm, x = norm_of(shape[1]), maps(*shape).contiguous(memory_format=layout)
    exact = nn.BatchNorm2d(shape[1]).double()
    exact.load_state_dict(norm.state_dict())
    direction = torch.randn(shape)
    found, expected = trained(norm, x, direction), trained(exact, x.double(), direction.double())
    for name in ("y", "running_mean", "running_var"):
        torch.testing.assert_close(found[name].double(), expected[name], rtol=2e-6, atol=2e-6)
    for name in ("x", "weight", "bias"):
        scale = expected[name].norm().clamp_min(1e-3)
        assert (found[name].double() - expected[name]).norm() / scale < 5e-5, name
    assert found["num_batches_tracked"] == expected["num_batches_tracked"] == 1
    assert found["y"].stride() == x.stride()


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (1, 4, 1, 1)], ids=["no image", "one position"])
def test_too_few_values_are_judged_by_the_stored_statistics(shape: tuple[int, ...]) -> None:
    norm, x = norm_of(4), maps(*shape)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    before = {name: value.clone() for name, value in norm.named_buffers()}
    found = trained(norm, x, torch.ones(shape))
    torch.testing.assert_close(found["y"], norm.eval()(x))
    assert all(torch.equal(before[name], value) for name, value in norm.named_buffers())
    assert all(found[name].isfinite().all() for name in ("x", "weight", "bias"))


def test_other_types_layouts_and_modes_take_torchs_way() -> None:
    norm, x = norm_of(4).train(), maps(2, 4, 5, 5)
    assert norm._needs_care(x)
    assert not norm._needs_care(x.contiguous())
    assert not norm._needs_care(x.bfloat16())
    assert not norm.eval()._needs_care(x)
    assert not norm.double().train()._needs_care(x.double())
    plain = nn.BatchNorm2d(4)
    plain.load_state_dict(norm.float().state_dict())
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_statistics_that_are_not_tracked_stay() -> None:
    norm, x = norm_of(4).train(), maps(2, 4, 5, 5)
    norm.track_running_stats = False
    expected = norm(x)
    assert norm.num_batches_tracked == 0
    assert norm.running_mean.count_nonzero() == 0
    norm.track_running_stats = True
    assert torch.equal(norm(x), expected)
    assert norm.num_batches_tracked == 1


def test_only_what_is_asked_for_has_a_gradient() -> None:
    norm, x = norm_of(4).train(), maps(2, 4, 5, 5)
    norm.weight.requires_grad_(False)
    norm(x).sum().backward()
    assert norm.weight.grad is None
    assert norm.bias.grad is not None


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.Conv2d(4, 6, 1, stride=2),
        DepthwiseConv(4, 5, bias=False),
    ],
    ids=["plain", "with bias", "depthwise"],
)
def test_one_convolution_for_both(conv: nn.Conv2d) -> None:
    norm, x = norm_of(conv.out_channels).eval(), torch.randn(2, 4, 8, 8)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    made = folded(conv.eval(), norm)
    assert type(made) is type(conv)
    torch.testing.assert_close(made(x), norm(conv(x)), rtol=1e-5, atol=1e-5)


def test_a_layer_gives_up_its_norm() -> None:
    layer, x = conv_norm(4, 6, 3, 2), torch.randn(2, 4, 8, 8)
    assert [tuple(p.shape) for p in layer.parameters()] == [(6, 4, 3, 3), (6,), (6,)]
    assert set(layer.state_dict()) >= {"conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"}
    for _ in range(3):
        layer.train()(x)
    expected = layer.eval()(x)
    made = copy.deepcopy(layer)
    for _ in range(2):
        made.fold_norms()
        with torch.no_grad():
            torch.testing.assert_close(made(x), expected, rtol=1e-5, atol=1e-5)
    assert set(made.state_dict()) == {"conv.weight", "conv.bias"}
    assert torch.equal(layer(x), expected)
