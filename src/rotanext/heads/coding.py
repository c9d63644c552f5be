"""Boxes as offsets from anchors: the delta coding of the published systems (MMRotate's DeltaXYWHAOBBoxCoder, projected shifts)."""

import math

import torch
from torch import Tensor

from rotanext.boxes import regularize, wrap_angle

MAX_LOG_RATIO = abs(math.log(16 / 1000))
_ROOM = 0.005  # about it: files in half precision hold the limit, and sizes of anchors, rounded


def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Deltas `[..., 5]` (dx, dy, dw, dh, da) that turn `anchors [..., 5]` into `boxes [..., 5]`.

    The shift is measured along the anchor's axes in units of its edges; of the box's two descriptions (edges swapped, turned by a
    quarter) the one that turns less is taken.
    """
    ax, ay, aw, ah, aa = anchors.unbind(-1)
    gx, gy, gw, gh, ga = boxes.unbind(-1)
    cos, sin = torch.cos(aa), torch.sin(aa)
    dx = (cos * (gx - ax) + sin * (gy - ay)) / aw
    dy = (cos * (gy - ay) - sin * (gx - ax)) / ah
    straight, swapped = wrap_angle(ga - aa), wrap_angle(ga - aa + math.pi / 2)
    keep = straight.abs() < swapped.abs()
    dw = torch.log(torch.where(keep, gw, gh) / aw)
    dh = torch.log(torch.where(keep, gh, gw) / ah)
    return torch.stack([dx, dy, dw, dh, torch.where(keep, straight, swapped)], -1)


def decode(anchors: Tensor, deltas: Tensor) -> Tensor:
    """Boxes `[..., 5]` (le90) from `anchors [..., 5]` and `deltas [..., 5]`; edges change by at most a factor of 62.5."""
    ax, ay, aw, ah, aa = anchors.unbind(-1)
    dx, dy, dw, dh, da = deltas.unbind(-1)
    cos, sin = torch.cos(aa), torch.sin(aa)
    x = dx * aw * cos - dy * ah * sin + ax
    y = dx * aw * sin + dy * ah * cos + ay
    w = aw * dw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    h = ah * dh.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return regularize(torch.stack([x, y, w, h, aa + da], -1))


def at_clamp(boxes: Tensor, edges: Tensor) -> Tensor:
    """Which decoded boxes `[N, 5]` have a side as long, or as short, as the clamp lets one become; of anchors with edges `[N, 2]`.

    Decoding may have exchanged width and height, so each side is held against both edges.
    """
    ratios = (boxes[:, 2:4, None] / edges[:, None]).log().abs()
    return ((ratios - MAX_LOG_RATIO).abs() < _ROOM).any(2).any(1)
