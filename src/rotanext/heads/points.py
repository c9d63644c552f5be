"""The grid of points, one a position of every level, and boxes as distances from a point to their four sides.

The distances are those to the left, upper, right and lower side in the box's own frame (as FCOS has them, arXiv:1904.01355, for
turned boxes): the point is inside where all four are positive.
"""

import torch
from torch import Tensor

from rotanext.boxes import wrap_angle
from rotanext.heads.contract import Reach

NUMBERS = 5  # of a box: left, top, right, bottom, angle
_WORTH_TELLING = 0.02  # share of the objects


def grid(sizes: list[tuple[int, int]], strides: tuple[int, ...], offset: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points `[P, 2]` (x, y in pixels) and their strides `[P]`, given each map's (height, width); level by level, row by row.

    Those of position (x, y) lie at `(x + offset, y + offset) * stride`.
    """
    points, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        x = (torch.arange(width, device=device).float() + offset) * stride
        y = (torch.arange(height, device=device).float() + offset) * stride
        level = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), -1).flatten(0, 1)
        points.append(level)
        steps.append(torch.full_like(level[:, 0], stride))
    return torch.cat(points), torch.cat(steps)


def encode(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances in pixels to the sides, and angle, `[..., 5]`, that make `boxes [..., 5]` of `points [..., 2]`."""
    x, y, w, h, angle = boxes.unbind(-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    dx, dy = points[..., 0] - x, points[..., 1] - y
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    return torch.stack([w / 2 + u, h / 2 + v, w / 2 - u, h / 2 - v, angle], -1)


def decode(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes `[..., 5]` of `points [..., 2]` and `distances [..., 5]` (see `encode`), with the angle in [-pi/2, pi/2).

    Either side may be the longer one, and sides are negative where the distances' sums are: bring it to the convention with
    `boxes.regularize`.
    """
    left, top, right, bottom, angle = distances.unbind(-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    u, v = (right - left) / 2, (bottom - top) / 2
    x, y = points[..., 0] + cos * u - sin * v, points[..., 1] + sin * u + cos * v
    return torch.stack([x, y, left + right, top + bottom, wrap_angle(angle)], -1)


def reach(boxes: Tensor, stride: int) -> Reach:
    """Which boxes `[N, 5]` hold a point of the finest level, wherever they lie: of the others neighbours compete for one."""
    cells = (boxes[:, 2] * boxes[:, 3] / stride**2).clamp(0, 1)
    share = float((cells < 1).float().mean()) if len(boxes) else 0.0
    if share > _WORTH_TELLING:
        advice = [
            f"{100 * share:.1f} % of the objects are smaller than a cell of {stride} x {stride} pixels: where no point "
            "lies in an object, nothing learns it.",
            "Enlarge the images where such objects matter (rotanext split --rates 2.0).",
        ]
    else:
        advice = [f"The points fit: {100 * (1 - share):.1f} % of the objects cover a cell of {stride} x {stride} pixels."]
    return Reach(cells, 1.0, f"area in cells of {stride} x {stride} pixels, at most 1", advice)
