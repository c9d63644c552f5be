"""The anchor grid: nine boxes per position and level, in one of the two conventions published checkpoints were trained with."""

import math

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (1.0, 0.5, 2.0)  # height / width
PER_POSITION = len(OCTAVES) * len(RATIOS)
BASE = 4.0  # side of the smallest square anchor, in strides, in all published systems
CONVENTIONS = ("v0", "v1")


def base_sizes(stride: int, scale: float = BASE) -> Tensor:
    """Width and height `[9, 2]` of a position's anchors in pixels: ratio-major, octave-minor."""
    sides = [scale * stride * octave for octave in OCTAVES]
    return torch.tensor([[side / math.sqrt(ratio), side * math.sqrt(ratio)] for ratio in RATIOS for side in sides])


def level_anchors(
    height: int, width: int, stride: int, convention: str, device: torch.device | None = None, scale: float = BASE
) -> Tensor:
    """Anchors `[height * width * 9, 5]` (pixels) of one level's map, row-major, centred on `index * stride`.

    `scale` is the side of the smallest square one, in strides.

    Convention "v0" (MMRotate 0.x, all published rows): horizontal, angle 0, taller-than-wide ones keep w < h. Convention "v1"
    (MMRotate 1.x): brought to le90, so that taller ones, and square ones, are turned by a quarter. Raises ValueError for any other.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"anchor convention is {convention!r}; expected one of {CONVENTIONS}")
    sizes = base_sizes(stride, scale).to(device)
    x = torch.arange(width, device=device, dtype=torch.float32) * stride
    y = torch.arange(height, device=device, dtype=torch.float32) * stride
    shape = (height, width, PER_POSITION)
    x, y = x[None, :, None].expand(shape), y[:, None, None].expand(shape)
    half_w, half_h = sizes[:, 0] / 2, sizes[:, 1] / 2
    # The reference keeps its anchors as float32 corners. What rounding leaves of w and h on the way back decides ties between
    # anchors of equal area, and whether a square counts as tall, so the trip is made here, too.
    left, right, top, bottom = x - half_w, x + half_w, y - half_h, y + half_h
    cx, cy, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    angle = torch.zeros_like(w)
    if convention == "v1":
        turned = w <= h
        angle = torch.where(turned, angle - math.pi / 2, angle)
        w, h = torch.where(turned, h, w), torch.where(turned, w, h)
    return torch.stack([cx, cy, w, h, angle], -1).reshape(-1, 5)


def grid_anchors(
    sizes: list[tuple[int, int]], convention: str, device: torch.device | None = None, scale: float = BASE
) -> list[Tensor]:
    """Anchors of every level, given each map's (height, width); 196,416 in all for 1024 x 1024."""
    return [level_anchors(h, w, s, convention, device, scale) for (h, w), s in zip(sizes, STRIDES, strict=True)]
