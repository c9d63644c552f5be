"""The feature pyramids: sizes of its maps, what it computes, and what its section takes."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from rotanext.models.necks import FPN, PAFPN, FPNConfig, PAFPNConfig

CHANNELS = [4, 6, 10]
NECK = FPNConfig(kind="fpn", channels=8)


def maps(height: int, width: int, batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, c, height // s, width // s) for c, s in zip(CHANNELS, (8, 16, 32), strict=True)]


@pytest.mark.parametrize("neck", [NECK, PAFPNConfig(kind="pafpn", channels=8, blocks=1)], ids=["fpn", "pafpn"])
@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1024, 1024, [(128, 128), (64, 64), (32, 32), (16, 16), (8, 8)]),
        (32, 32, [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]),
        (96, 160, [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]),  # odd sides are halved upwards
        (1, 33, [(4, 8), (2, 4), (1, 2), (1, 1), (1, 1)]),  # filled up to 32 and 64 first
        (65, 97, [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]),
    ],
)
def test_level_sizes_are_those_of_the_maps(
    height: int, width: int, expected: list[tuple[int, int]], neck: FPNConfig | PAFPNConfig
) -> None:
    expected = expected[: len(neck.strides)]
    assert neck.level_sizes(height, width) == expected
    filled = [-(-side // 32) * 32 for side in (height, width)]
    found = neck.build([3, *CHANNELS])(maps(*filled, batch=2))
    assert [tuple(level.shape) for level in found] == [(2, 8, *size) for size in expected]


def test_a_relu_before_the_coarsest_map() -> None:
    """That of oriented-det and torchvision, and of the paper; all other maps are the same."""
    plain, relu = NECK.build([3, *CHANNELS]), FPNConfig(kind="fpn-relu", channels=8).build([3, *CHANNELS])
    relu.load_state_dict(plain.state_dict())
    given = maps(256, 256)
    ours, theirs = plain(given), relu(given)
    assert all(torch.equal(a, b) for a, b in zip(ours[:4], theirs[:4], strict=True))
    assert torch.equal(theirs[4], plain.extra[1](F.relu(ours[3])))
    assert not torch.equal(theirs[4], ours[4])


def test_the_pyramid_by_its_definition() -> None:
    """Lateral convolutions, coarser maps added by their nearest pixels, then one more convolution; P6 comes from C5, P7 from P6."""
    neck, (c3, c4, c5) = FPN(CHANNELS, 8), maps(64, 96)
    p5 = neck.lateral[2](c5)
    p4 = neck.lateral[1](c4) + p5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    p3 = neck.lateral[0](c3) + p4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    p6 = F.conv2d(c5, neck.extra[0].weight, neck.extra[0].bias, stride=2, padding=1)
    p7 = F.conv2d(p6, neck.extra[1].weight, neck.extra[1].bias, stride=2, padding=1)  # without a ReLU in between
    expected = [neck.output[0](p3), neck.output[1](p4), neck.output[2](p5), p6, p7]
    for found, wanted in zip(neck([c3, c4, c5]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_path_aggregation_by_its_definition() -> None:
    """Down: the coarser map, enlarged, before the finer one; up: the finer map, shrunk, before the reduced one of its size."""
    neck, (c3, c4, c5) = PAFPN(CHANNELS, 8, 1).eval(), maps(64, 96)

    def enlarged(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    r5 = neck.reduce_layers[0](c5)
    m4 = neck.top_down_blocks[0](torch.cat([enlarged(r5), c4], 1))
    r4 = neck.reduce_layers[1](m4)
    p3 = neck.top_down_blocks[1](torch.cat([enlarged(r4), c3], 1))
    p4 = neck.bottom_up_blocks[0](torch.cat([neck.downsamples[0](p3), r4], 1))
    p5 = neck.bottom_up_blocks[1](torch.cat([neck.downsamples[1](p4), r5], 1))
    assert [level.shape[1] for level in (r5, m4, r4, p3, p4, p5)] == [6, 6, 4, 4, 6, 10]
    for found, conv, merged in zip(neck([c3, c4, c5]), neck.out_convs, (p3, p4, p5), strict=True):
        torch.testing.assert_close(found, conv(merged))


def test_every_parameter_of_the_path_aggregation_has_a_gradient() -> None:
    neck = PAFPN(CHANNELS, 8, 2)
    sum((level * torch.randn_like(level)).sum() for level in neck(maps(64, 64, batch=2))).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_every_parameter_has_a_gradient_and_biases_start_at_zero() -> None:
    neck = FPN(CHANNELS, 8)
    for name, parameter in neck.named_parameters():
        assert bool(parameter.any()) == name.endswith("weight"), name
    sum(level.square().sum() for level in neck(maps(64, 64))).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_finest_map_of_a_backbone_is_not_used() -> None:
    neck = NECK.build([3, *CHANNELS])
    assert [conv.in_channels for conv in neck.lateral] == CHANNELS
    assert [conv.in_channels for conv in neck.extra] == [10, 8]
    assert {conv.out_channels for conv in (*neck.lateral, *neck.output, *neck.extra)} == {8}
    other = PAFPNConfig(kind="pafpn", channels=8, blocks=3).build([3, *CHANNELS])
    assert [layer.conv.in_channels for layer in other.out_convs] == CHANNELS
    assert {len(layer.blocks) for layer in (*other.top_down_blocks, *other.bottom_up_blocks)} == {3}


@pytest.mark.parametrize(
    "values", [{"channels": 0}, {"channels": 8193}, {"channels": 8.0}, {"channels": "8"}, {"channels": True}, {}]
)
def test_widths_that_make_no_sense(values: dict) -> None:
    with pytest.raises(ValidationError, match="channels"):
        FPNConfig(kind="fpn", **values)
