"""The anchor grid: count, order, and both conventions."""

import math

import pytest
import torch

from rotanext.heads.anchors import STRIDES, V0, V1, AnchorRule
from rotanext.ops import rotated_iou_pairs


def map_sizes(side: int) -> list[tuple[int, int]]:
    return [(side // s, side // s) for s in STRIDES]


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(1024, 1024, 196_416), (512, 512, 49_104), (128, 256, 9 * (16 * 32 + 8 * 16 + 4 * 8 + 2 * 4 + 1 * 2))],
)
@pytest.mark.parametrize("convention", ["v0", "v1"])
def test_count(height: int, width: int, count: int, convention: str) -> None:
    levels = AnchorRule(convention).grid([(height // s, width // s) for s in STRIDES])
    assert sum(len(level) for level in levels) == count


def test_order_is_row_major_then_ratio_then_octave() -> None:
    anchors = V0.level(3, 4, 16).reshape(3, 4, 9, 5)
    # Centred on index x stride, 4 strides wide.
    torch.testing.assert_close(anchors[0, 0, 0], torch.tensor([0.0, 0, 64, 64, 0]))
    torch.testing.assert_close(anchors[2, 1, :, :2], torch.tensor([[16.0, 32.0]]).expand(9, 2))
    w, h = anchors[1, 1, :, 2], anchors[1, 1, :, 3]
    torch.testing.assert_close(h / w, torch.tensor(V0.ratios).repeat_interleave(3))
    torch.testing.assert_close((w * h).sqrt(), V0.scale * 16 * 2 ** (torch.arange(9) % 3 / 3))


def test_the_layout_says_where_every_anchor_lies() -> None:
    sizes = [(3, 5), (2, 3), (1, 2), (1, 1), (0, 1)]
    anchors, layout, first = torch.cat(V1.grid(sizes)), V1.layout(sizes), 0
    for height, width, stride, count in zip(*[iter(layout)] * 4, strict=True):
        y, x, _ = torch.meshgrid(*(torch.arange(n) for n in (height, width, count)), indexing="ij")
        level = anchors[first : first + height * width * count]
        torch.testing.assert_close(level[:, :2], torch.stack([x, y], -1).flatten(0, 2) * float(stride), rtol=0, atol=1e-4)
        first += len(level)
    assert first == len(anchors)


@pytest.mark.parametrize("stride", STRIDES)
def test_v0_anchors_are_upright(stride: int) -> None:
    anchors = V0.level(4, 4, stride)
    assert (anchors[:, 4] == 0).all()
    assert (anchors[:, 2] * 1.5 < anchors[:, 3]).sum() == 16 * 3, "taller ones stay taller"
    torch.testing.assert_close(anchors.reshape(16, V0.per_position, 5)[5, :, 2:4], V0.base_sizes(stride))


@pytest.mark.parametrize("stride", STRIDES)
def test_v1_anchors_are_the_same_rectangles_with_the_long_edge_first(stride: int) -> None:
    v0, v1 = V0.level(4, 5, stride), V1.level(4, 5, stride)
    # Squares may be off by the rounding they are compared with.
    assert (v1[:, 2] >= v1[:, 3] * (1 - 1e-5)).all()
    assert set(v1[:, 4].tolist()) <= {0.0, torch.tensor(-math.pi / 2).item()}
    torch.testing.assert_close(rotated_iou_pairs(v0, v1), torch.ones(len(v0)))
    turned = (v1[:, 4] < 0).reshape(20, 3, 3)
    assert not turned[:, 1].any()  # wider
    assert turned[:, 2].all()  # taller
    assert turned[0, 0].all()  # square, at the origin where nothing rounds


def test_levels_follow_their_strides() -> None:
    for level, stride in zip(V0.grid(map_sizes(256)), STRIDES, strict=True):
        positions = level[:, 0].round().unique()
        assert positions.tolist() == list(range(0, 256, stride))
        assert level[0, 2].item() == pytest.approx(V0.scale * stride)


def test_other_sizes_and_shapes() -> None:
    rule = AnchorRule("v0", scale=2.0, octaves=2, ratios=(1.0, 0.25))
    assert rule.per_position == 4
    anchors = rule.level(3, 4, 8).reshape(3, 4, 4, 5)
    torch.testing.assert_close(anchors[1, 2, :, :2], torch.tensor([[16.0, 8.0]]).expand(4, 2))
    side = 16 * 2**0.5
    torch.testing.assert_close(anchors[0, 0, :, 2:4], torch.tensor([[16.0, 16.0], [side, side], [32.0, 8.0], [2 * side, side / 2]]))


@pytest.mark.parametrize("rule", [V0, V1], ids=["v0", "v1"])
def test_anchors_picked_from_all_levels_are_those_of_the_grid(rule: AnchorRule) -> None:
    sizes = map_sizes(256)
    levels = rule.grid(sizes)
    level = torch.cat([torch.full((len(one),), k) for k, one in enumerate(levels)])
    index = torch.cat([torch.arange(len(one)) for one in levels])
    order = torch.randperm(len(level))
    picked = rule.of_levels(level[order], index[order], [width for _, width in sizes])
    assert torch.equal(picked, torch.cat(levels)[order])


def test_unknown_convention() -> None:
    with pytest.raises(ValueError, match="'v2'"):
        AnchorRule("v2")


def test_wrong_number_of_levels() -> None:
    with pytest.raises(ValueError):
        V0.grid([(4, 4)])
