"""The depthwise convolution with a gradient of its own is torch's convolution."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rotanext.models.depthwise import DepthwiseConv

SHAPES = [(2, 40, 24, 24), (1, 5, 9, 3), (3, 600, 4, 5), (1, 1, 1, 1), (1, 33, 40, 17)]


def gradients(conv: nn.Module, x: Tensor, out: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    return list(torch.autograd.grad(conv(x), [x, *conv.parameters()], out))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_float64(shape: tuple[int, int, int, int], size: int, layout: torch.memory_format) -> None:
    conv, x, out = DepthwiseConv(shape[1], size), torch.randn(shape).to(memory_format=layout), torch.randn(shape)
    exact = nn.Conv2d(shape[1], shape[1], size, padding=size // 2, groups=shape[1]).double()
    exact.load_state_dict(conv.state_dict())
    assert conv._has_own_gradient(x)
    torch.testing.assert_close(conv(x).double(), exact(x.double()), rtol=0, atol=1e-5)
    for found, wanted in zip(gradients(conv, x, out), gradients(exact, x.double(), out.double()), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=2e-4)


def test_frozen_parts_get_no_gradient() -> None:
    conv = DepthwiseConv(4, 7).requires_grad_(False)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None


def test_torchs_own_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other types, autocast, detection, the reference operators, and tracing go by torch's convolution."""
    conv, x = DepthwiseConv(4, 7), torch.randn(1, 4, 8, 8)
    assert conv._has_own_gradient(x)
    assert not copy.deepcopy(conv).double()._has_own_gradient(x.double())
    with torch.no_grad():
        assert not conv._has_own_gradient(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not conv._has_own_gradient(x)
        assert conv(x).dtype == torch.bfloat16
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), conv(x), rtol=0, atol=1e-6)
    exported = torch.export.export(conv, (x,)).module()
    torch.testing.assert_close(exported(x), conv(x), rtol=0, atol=1e-6)
    derivative = torch.func.grad(lambda values: conv(values).square().sum())(x)
    torch.testing.assert_close(derivative, torch.autograd.grad(conv(y := x.clone().requires_grad_()).square().sum(), y)[0])
    monkeypatch.setenv("ROTANEXT_OPS", "reference")
    assert not conv._has_own_gradient(x)


def test_other_inputs() -> None:
    """Even sizes are refused; images without a batch, forward differentiation and a backward pass within autocast work."""
    with pytest.raises(ValueError, match="odd"):
        DepthwiseConv(4, 4)
    conv, x = DepthwiseConv(4, 7), torch.randn(1, 4, 8, 8)
    single = torch.autograd.grad(conv(y := x[0].clone().requires_grad_()).square().sum(), y)[0]
    with torch.autograd.forward_ad.dual_level():
        torch.autograd.forward_ad.unpack_dual(conv(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))))
    y = x.clone().requires_grad_()
    loss = conv(y).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        within = torch.autograd.grad(loss, y)[0]
    torch.testing.assert_close(within[0], single, rtol=1e-5, atol=1e-5)
