"""The one box convention, and its conversion from and to corners.

A box is `[cx, cy, w, h, angle]`: pixels, x right, y down, angle in radians, positive turns clockwise on the screen, `w >= h`,
`angle in [-pi/2, pi/2)`: the long-edge convention "le90". The corner order is top-left, top-right, bottom-right, bottom-left in
the box's own frame, where the long edge points along +x before the turn. `polygons.py` does the same for NumPy arrays.
"""

import math

import torch
from torch import Tensor

CONVENTION = "le90: [cx, cy, w, h, angle], pixels, radians, clockwise on screen, w >= h, angle in [-pi/2, pi/2)"


def wrap_angle(angle: Tensor) -> Tensor:
    """Bring angles (radians, any shape) into [-pi/2, pi/2) by multiples of pi."""
    wrapped = (angle + math.pi / 2) % math.pi - math.pi / 2
    # In float32 the remainder can round up to the open end of the interval.
    return torch.where(wrapped >= math.pi / 2, wrapped - math.pi, wrapped)


def regularize(boxes: Tensor) -> Tensor:
    """Bring `[..., 5]` boxes with any angle and edge order into the convention (the same rectangle, w >= h)."""
    cx, cy, w, h, angle = boxes.unbind(-1)
    swap = w < h
    long_edge, short_edge = torch.where(swap, h, w), torch.where(swap, w, h)
    angle = wrap_angle(torch.where(swap, angle + math.pi / 2, angle))
    return torch.stack([cx, cy, long_edge, short_edge, angle], -1)


def boxes_to_corners(boxes: Tensor) -> Tensor:
    """Corners `[..., 4, 2]` (x, y in pixels, clockwise on the screen) of `[..., 5]` boxes."""
    cx, cy, w, h, angle = boxes.unbind(-1)
    cos, sin = torch.cos(angle) / 2, torch.sin(angle) / 2
    wx, wy, hx, hy = w * cos, w * sin, -h * sin, h * cos
    x = torch.stack([cx - wx - hx, cx + wx - hx, cx + wx + hx, cx - wx + hx], -1)
    y = torch.stack([cy - wy - hy, cy + wy - hy, cy + wy + hy, cy - wy + hy], -1)
    return torch.stack([x, y], -1)


def corners_to_boxes(corners: Tensor) -> Tensor:
    """Boxes `[N, 5]` (le90) of the rectangles of least area around `[N, 4, 2]` quadrilaterals, in any corner order.

    Exact for rectangles. A rectangle of least area has a side along an edge of the convex hull (Freeman and Shapira, 1975); the
    hull's edges are among the six lines through two of the four points, so the best of these six directions is the answer.
    Points on one line give a box of height 0, four equal points one of size 0.
    """
    points = corners.detach().double()
    centre = points.mean(1, keepdim=True)
    points = points - centre
    first, second = torch.triu_indices(4, 4, 1, device=corners.device)
    # Sides before diagonals: ties (a rectangle's two directions) then fall to a side.
    order = torch.tensor([0, 3, 5, 2, 1, 4], device=corners.device)
    direction = points[:, second[order]] - points[:, first[order]]
    length = direction.norm(dim=-1, keepdim=True)
    along = torch.where(length > 0, direction / length.clamp_min(1e-300), torch.zeros_like(direction))
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    u = torch.einsum("nkd,npd->nkp", along, points)
    v = torch.einsum("nkd,npd->nkp", across, points)
    u_min, u_max, v_min, v_max = u.amin(-1), u.amax(-1), v.amin(-1), v.amax(-1)
    area = (u_max - u_min) * (v_max - v_min)
    area = torch.where(length[..., 0] > 0, area, torch.full_like(area, math.inf))
    best = area.argmin(1, keepdim=True)

    def pick(values: Tensor) -> Tensor:
        return values.gather(1, best)[:, 0]

    ax, ay = pick(along[..., 0]), pick(along[..., 1])
    mid_u, mid_v = pick(u_min + u_max) / 2, pick(v_min + v_max) / 2
    cx, cy = mid_u * ax - mid_v * ay + centre[:, 0, 0], mid_u * ay + mid_v * ax + centre[:, 0, 1]
    boxes = torch.stack([cx, cy, pick(u_max - u_min), pick(v_max - v_min), torch.atan2(ay, ax)], -1)
    return regularize(boxes).to(corners.dtype if corners.is_floating_point() else torch.float32)
