"""A detector's network, from images to raw outputs: backbone, neck and head. No targets, no thresholds in here."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rotanext.heads.contract import HeadSection, Raw
from rotanext.models.backbones import BackboneConfig
from rotanext.models.necks import SIZE_DIVISOR, NeckConfig
from rotanext.models.small_maps import guard_small_maps

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
GREY = 114.0
Padding = Literal["mean", "grey"]  # what fills images up: the mean colour (0, once normalised), or GREY of each colour


class Network(nn.Module):
    """The parts of a detector, joined; its normalisation travels with it as buffers."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: BackboneConfig, neck: NeckConfig, head: HeadSection, num_classes: int, padding: Padding) -> None:
        """Build the parts that the sections of a configuration describe, with random weights."""
        super().__init__()
        self.padding = padding
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.backbone = backbone.build()
        self.neck = neck.build(list(self.backbone.channels))
        self.head: Any = head.build(neck.channels, neck.strides, num_classes)  # a heads.contract.Head
        self.backbone.leave_out(self.neck.first)
        guard_small_maps(self)

    @property
    def num_classes(self) -> int:
        """Classes that the head tells apart."""
        count: int = self.head.num_classes
        return count

    def prepare(self, images: list[Tensor]) -> Tensor:
        """One batch `[B, 3, H, W]` from uint8 RGB images `[h, w, 3]` of any sizes (or from none), on the model's device.

        Normalised, and filled up with the padding's colour on the right and at the bottom to a common multiple of 32.
        """
        height = max((image.shape[0] for image in images), default=SIZE_DIVISOR)
        width = max((image.shape[1] for image in images), default=SIZE_DIVISOR)
        height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width))
        fill = (GREY - self.mean) / self.std if self.padding == "grey" else torch.zeros_like(self.mean)
        shape = len(images), 3, height, width
        batch = torch.empty(shape, dtype=fill.dtype, device=fill.device, memory_format=torch.channels_last).copy_(fill)
        for target, image in zip(batch, images, strict=True):
            pixels = image.to(self.mean.device, non_blocking=True).permute(2, 0, 1).to(self.mean.dtype)
            target[:, : image.shape[0], : image.shape[1]] = (pixels - self.mean) / self.std
        return batch

    def forward(self, batch: Tensor) -> Raw:
        """Raw outputs of every level for a prepared batch `[B, 3, H, W]`."""
        raw: Raw = self.head(self.neck(self.backbone(batch)[self.neck.first :]))
        return raw
