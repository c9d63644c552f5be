"""Rotated RetinaNet: backbone, pyramid and head, from pictures to raw logits and deltas. No targets, no thresholds in here."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotanext.anchors import V0
from rotanext.models.backbones import BackboneOptions, build_backbone
from rotanext.models.convnext import ConvNeXt
from rotanext.models.fpn import FPN
from rotanext.models.small_maps import guard_small_maps

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
SIZE_DIVISOR = 32
PRIOR = 0.01


class RetinaHead(nn.Module):
    """Two towers of 3x3 convolutions shared over the levels, then logits and deltas of a position's anchors."""

    def __init__(self, channels: int, depth: int, num_classes: int, per_position: int) -> None:
        super().__init__()
        self.cls_tower = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.reg_tower = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.cls_out = nn.Conv2d(channels, per_position * num_classes, 3, padding=1)
        self.reg_out = nn.Conv2d(channels, per_position * 5, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if not module.weight.is_meta:  # where normal numbers would import torch's compiler: seconds, 200 MB
                    nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.cls_out.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level logits `[B, anchors * classes, h, w]` and deltas `[B, anchors * 5, h, w]`."""
        logits, deltas = [], []
        for level in pyramid:
            cls, reg = level, level
            for conv in self.cls_tower:
                cls = F.relu(conv(cls), inplace=True)
            for conv in self.reg_tower:
                reg = F.relu(conv(reg), inplace=True)
            logits.append(self.cls_out(cls))
            deltas.append(self.reg_out(reg))
        return logits, deltas


class RetinaNet(nn.Module):
    """The detector's network; its normalisation travels with it as buffers."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        fpn_channels: int = 256,
        tower_depth: int = 4,
        anchors_per_position: int = V0.per_position,
        options: BackboneOptions | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.backbone = build_backbone(backbone, options or BackboneOptions())
        self.fpn = FPN(list(self.backbone.channels)[1:], fpn_channels)  # type: ignore[arg-type]
        self.head = RetinaHead(fpn_channels, tower_depth, num_classes, anchors_per_position)
        self.num_classes = num_classes
        guard_small_maps(self)
        if isinstance(self.backbone, ConvNeXt):
            # The pyramid starts at stride 8: the finest map, and so its norm, is not used.
            self.backbone.norm0.requires_grad_(False)

    def prepare(self, images: list[Tensor]) -> Tensor:
        """One batch `[B, 3, H, W]` from uint8 RGB pictures `[h, w, 3]` of any sizes (or from none), on the model's device.

        Normalised first, then filled with zeros on the right and at the bottom up to a common multiple of 32.
        """
        height = max((image.shape[0] for image in images), default=SIZE_DIVISOR)
        width = max((image.shape[1] for image in images), default=SIZE_DIVISOR)
        height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width))
        batch = self.mean.new_zeros(len(images), 3, height, width).to(memory_format=torch.channels_last)
        for target, image in zip(batch, images, strict=True):
            pixels = image.to(self.mean.device, non_blocking=True).permute(2, 0, 1).to(self.mean.dtype)
            target[:, : image.shape[0], : image.shape[1]] = (pixels - self.mean) / self.std
        return batch

    def forward(self, batch: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and deltas of the five levels for a prepared batch `[B, 3, H, W]`; see `RetinaHead.forward`."""
        return self.head(self.fpn(self.backbone(batch)[1:]))


def flatten_levels(logits: list[Tensor], deltas: list[Tensor], num_classes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Per level logits `[B, A_l, classes]` and deltas `[B, A_l, 5]`, in the order of the anchors."""
    flat_logits = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, num_classes) for x in logits]
    flat_deltas = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5) for x in deltas]
    return flat_logits, flat_deltas
