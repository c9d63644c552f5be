"""The weights' gradient of a depthwise convolution against its definition; tests/models/test_depthwise.py has the layer."""

import pytest
import torch

from rotanext import ops
from rotanext.ops import cpu


@pytest.mark.parametrize("shape", [(2, 40, 24, 24), (1, 5, 9, 3), (3, 600, 4, 5), (1, 1, 1, 1)])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_gradient_is_the_definitions(shape: tuple[int, int, int, int], size: int, each_implementation: str) -> None:
    x, out = torch.randn(shape), torch.randn(shape)
    weight = torch.zeros(shape[1], 1, size, size, dtype=torch.float64, requires_grad=True)
    product = torch.nn.functional.conv2d(x.double(), weight, padding=size // 2, groups=shape[1])
    (expected,) = torch.autograd.grad(product, weight, out.double())
    found = ops.depthwise_weight_gradient(x, out, size)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-4)


def test_threads_do_not_change_a_bit(pools: list[int]) -> None:
    x, out = torch.randn(2, 64, 48, 48), torch.randn(2, 64, 48, 48)
    many = cpu.depthwise_weight_gradient(x, out, 7)
    assert 3 in pools
    torch.set_num_threads(1)
    assert torch.equal(many, cpu.depthwise_weight_gradient(x, out, 7))
