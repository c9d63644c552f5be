"""The anchor grid: boxes of a few sizes and shapes at every position of every level, by default the nine of published systems."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
Convention = Literal["v0", "v1"]
CONVENTIONS = get_args(Convention)


@dataclass(frozen=True)
class AnchorRule:
    """Which anchors a position has.

    Convention "v0" (MMRotate 0.x, all published rows): horizontal, angle 0, taller-than-wide ones keep w < h. Convention "v1"
    (MMRotate 1.x): brought to le90, so that taller ones, and square ones, are turned by a quarter. Raises ValueError for any other.
    """

    convention: str = "v0"
    scale: float = 4.0  # side of the smallest square, in strides
    octaves: int = 3  # sizes between one level and the next
    ratios: tuple[float, ...] = (1.0, 0.5, 2.0)  # height / width
    strides: tuple[int, ...] = STRIDES  # of the levels, in pixels

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(f"anchor convention is {self.convention!r}; expected one of {CONVENTIONS}")

    @property
    def per_position(self) -> int:
        """Anchors a position has."""
        return self.octaves * len(self.ratios)

    def base_sizes(self, stride: int) -> Tensor:
        """Width and height `[per_position, 2]` of a position's anchors in pixels: ratio-major, octave-minor."""
        sides = [self.scale * stride * 2 ** (k / self.octaves) for k in range(self.octaves)]
        pairs = [[side / math.sqrt(ratio), side * math.sqrt(ratio)] for ratio in self.ratios for side in sides]
        return torch.tensor(pairs, dtype=torch.float32)

    def at(self, index: Tensor, width: int, stride: int) -> Tensor:
        """Anchors `[..., 5]` (pixels) of given numbers in a level's map of that width, counted row by row, position by position.

        Those of position (x, y) are centred on `(x, y) * stride`.
        """
        sizes = self.base_sizes(stride).to(index.device)[index % self.per_position]
        position = index // self.per_position
        return self._placed(sizes, position % width, position // width, stride)

    def of_levels(self, level: Tensor, index: Tensor, widths: list[int]) -> Tensor:
        """Anchors `[..., 5]` as `at` gives them, each of a level of its own; `widths` are those of all levels' maps."""
        tables = torch.stack([self.base_sizes(stride) for stride in self.strides]).to(index.device)
        width, stride = (torch.tensor(values, device=index.device)[level] for values in (widths, self.strides))
        position = index // self.per_position
        return self._placed(tables[level, index % self.per_position], position % width, position // width, stride)

    def _placed(self, sizes: Tensor, column: Tensor, row: Tensor, stride: int | Tensor) -> Tensor:
        """Boxes of sizes `[..., 2]` at columns and rows `[...]` of maps of those strides; shapes may be broadcast."""
        x, y = column.float() * stride, row.float() * stride
        half_w, half_h = sizes[..., 0] / 2, sizes[..., 1] / 2
        # The reference keeps its anchors as float32 corners. What rounding leaves of w and h on the way back decides ties between
        # anchors of equal area, and whether a square counts as tall, so the trip is made here, too.
        left, right, top, bottom = x - half_w, x + half_w, y - half_h, y + half_h
        cx, cy, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        angle = torch.zeros_like(w)
        if self.convention == "v1":
            turned = w <= h
            angle = torch.where(turned, angle - math.pi / 2, angle)
            w, h = torch.where(turned, h, w), torch.where(turned, w, h)
        return torch.stack(torch.broadcast_tensors(cx, cy, w, h, angle), -1)

    def level(self, height: int, width: int, stride: int, device: torch.device | None = None) -> Tensor:
        """Anchors `[height * width * per_position, 5]` (pixels) of one level's map."""
        columns = torch.arange(width, device=device)[None, :, None]
        rows = torch.arange(height, device=device)[:, None, None]
        return self._placed(self.base_sizes(stride).to(columns.device), columns, rows, stride).flatten(0, 2)

    def grid(self, sizes: list[tuple[int, int]], device: torch.device | None = None) -> list[Tensor]:
        """Anchors of every level, given each map's (height, width); 196,416 of the published ones for 1024 x 1024."""
        return [self.level(h, w, s, device) for (h, w), s in zip(sizes, self.strides, strict=True)]

    def layout(self, sizes: list[tuple[int, int]]) -> list[int]:
        """How the anchors of `grid`, its levels joined, lie: height, width, stride and anchors per position of each level."""
        levels = zip(sizes, self.strides, strict=True)
        return [number for (height, width), stride in levels for number in (height, width, stride, self.per_position)]


V0, V1 = AnchorRule("v0"), AnchorRule("v1")
