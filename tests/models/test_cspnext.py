"""CSPNeXt: sizes as published, its pooling, and statistics that are taken once. Its numbers: tests/golden/test_golden_rtmdet.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rotanext.config import load_config
from rotanext.inference.detector import build_network
from rotanext.models.cspnext import VARIANTS, Block, CSPLayer, CSPNeXt, PyramidPooling

# RTMDET.md: parameters of the whole published detector, and how many tensors are trained.
PUBLISHED = {"tiny": (4_877_544, 246), "s": (8_862_156, 264), "m": (24_672_132, 354), "l": (52_266_460, 444)}
SMALL = torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_numbers_of_parameters(size: str) -> None:
    with torch.device("meta"):
        network = build_network(load_config(f"rotated-rtmdet_{size}-3x-dota"), 15)
    found = list(network.parameters())
    assert (sum(p.numel() for p in found), len(found)) == PUBLISHED[size]
    assert all(p.requires_grad for p in found)


def test_blocks_and_channels_of_every_size() -> None:
    assert {f"cspnext_{size}" for size in PUBLISHED} == set(VARIANTS)
    assert [VARIANTS["cspnext_s"].blocks(count) for count in (3, 6, 6, 3)] == [1, 2, 2, 1]
    assert [VARIANTS["cspnext_tiny"].blocks(count) for count in (3, 6)] == [1, 1]
    with torch.device("meta"):
        assert CSPNeXt("cspnext_m").channels == [96, 192, 384, 768]
    with pytest.raises(KeyError):
        CSPNeXt("cspnext_xl")


def test_blocks_add_their_input_in_all_stages_but_the_last() -> None:
    with torch.device("meta"):
        body = CSPNeXt("cspnext_tiny")
    stages = [body.stage1, body.stage2, body.stage3, body.stage4]
    residual = [[m.residual for m in stage.modules() if isinstance(m, Block)] for stage in stages]
    assert residual == [[True], [True], [True], [False]]
    assert [any(isinstance(m, PyramidPooling) for m in stage.modules()) for stage in stages] == [False, False, False, True]
    assert all(isinstance(stage[-1].attention.fc, nn.Conv2d) for stage in stages)


def test_the_style_of_oriented_det() -> None:
    """Sigmoids make the gains, and the last stage adds its input like the others; see docs/from-oriented-det.md."""
    body = CSPNeXt("cspnext_tiny", style="oriented-det").eval()
    assert all(m.residual for m in body.modules() if isinstance(m, Block))
    attention, x = body.stage2[-1].attention, torch.randn(1, 96, 4, 4)
    assert torch.equal(attention(x), x * torch.sigmoid(attention.fc(x.mean((2, 3), keepdim=True))))


def test_the_largest_values_of_three_windows() -> None:
    pooling, x = PyramidPooling(8).eval(), torch.randn(2, 8, 17, 11)
    y = pooling.conv1(x)
    joined = torch.cat([y, *(F.max_pool2d(y, size, 1, size // 2) for size in (5, 9, 13))], 1)
    assert torch.equal(pooling(x), pooling.conv2(joined))


def test_half_of_the_channels_go_past_the_blocks() -> None:
    layer, x = CSPLayer(6, 10, 2, residual=True, attention=None).eval(), torch.randn(1, 6, 8, 8)
    main = layer.main_conv(x)
    for block in layer.blocks:
        main = main + block.conv2(block.conv1(main))
    torch.testing.assert_close(layer(x), layer.final_conv(torch.cat([main, layer.short_conv(x)], 1)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["torch's norms", "ours"])
def test_what_is_computed_twice_counts_once(layout: torch.memory_format) -> None:
    """Gradient checkpointing computes a layer again in the backward pass; its running statistics take in the first pass alone."""
    plain, saving = CSPNeXt("cspnext_tiny").train(), CSPNeXt("cspnext_tiny", gradient_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    for body in (plain, saving):
        sum(level.sum() for level in body.to(memory_format=layout)(SMALL.contiguous(memory_format=layout))).backward()
    buffers = dict(saving.named_buffers())
    assert {"stage1.0.bn.num_batches_tracked", "stem.0.bn.running_mean"} <= buffers.keys()
    for name, value in plain.named_buffers():
        torch.testing.assert_close(buffers[name], value, msg=name)
    assert {m.momentum for m in saving.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    saving.eval()
    torch.testing.assert_close(saving(SMALL), plain.eval()(SMALL))
