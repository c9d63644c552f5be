"""The graph that is exported: from images as they are decoded to logits and boxes; what follows is in the runtime wrapper.

Thresholds, top-k and the exact rotated NMS stay outside: benchmarks/export_nms.py shows by how much that is faster.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rotanext.export.metadata import INPUT
from rotanext.heads.contract import rows
from rotanext.models.fast import PRECISIONS, for_inference
from rotanext.models.necks import SIZE_DIVISOR
from rotanext.models.network import GREY, Network

OUTPUTS = ("logits", "boxes")
_MOST_BLOCKS = 1 << 17
EXAMPLE = (2, 200, 264, 3)  # only traced: no number of it is kept


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of exporters on their own inner workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _blocks(side: int) -> int:
    """How many multiples of the divisor a side takes; while traced a number of its own.

    Otherwise all later sizes are formulas of the side, which take the tracer minutes, and which it cannot follow for small ones.
    """
    # nothing negative: engines' integer division rounds towards zero
    blocks = torch.full((), (side + SIZE_DIVISOR - 1) // SIZE_DIVISOR, dtype=torch.int64, device="cpu").item()
    torch._check(blocks >= 1)
    torch._check(blocks <= _MOST_BLOCKS)
    return blocks  # type: ignore[return-value]


class DecodedNetwork(nn.Module):
    """The trained network with normalisation before and decoding after it, computing in a precision of `models.fast.PRECISIONS`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Network, precision: str = "fp32", fold: bool = True) -> None:
        """`fold`: batch norms are put into convolutions, from which they cannot be told again."""
        super().__init__()
        self.network = for_inference(model, precision, winograd=False, fold=fold)
        self.dtype = PRECISIONS[precision]
        self.register_buffer("mean", model.mean.detach().float().clone())
        self.register_buffer("std", model.std.detach().float().clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, P, C]` and boxes `[B, P, 5]` (le90, pixels) of uint8 RGB images `[B, H, W, 3]` of any size.

        Priors are counted level by level, row by row, position by position; the score of a class is its logit's sigmoid.
        """
        height, width = images.shape[1], images.shape[2]
        right, bottom = (_blocks(side) * SIZE_DIVISOR - side for side in (width, height))
        batch = self._normalised(images.permute(0, 3, 1, 2).float(), (0, right, 0, bottom))
        raw = self.network(batch.to(self.dtype))
        boxes = self.network.head.decode(raw)
        if self.network.head.centres_inside:
            last = torch.stack([torch.full((), side - 1.0, device=boxes.device) for side in (width, height)])
            boxes = torch.cat([torch.minimum(boxes[..., :2].clamp_min(0), last), boxes[..., 2:]], -1)
        return torch.cat(rows(raw.logits, self.network.num_classes), 1).float(), boxes

    def _normalised(self, pixels: Tensor, around: tuple[int, int, int, int]) -> Tensor:
        """What `Network.prepare` makes of images: filled up with its colour."""
        if self.network.padding == "grey":
            return (F.pad(pixels, around, value=GREY) - self.mean) / self.std
        return F.pad((pixels - self.mean) / self.std, around)


def trace(network: DecodedNetwork) -> ExportedProgram:
    """The network as a graph for any number of images of any size."""
    example = torch.zeros(EXAMPLE, dtype=torch.uint8)
    dynamic = {INPUT: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}}
    with torch.no_grad(), quiet():
        return torch.export.export(network.eval(), (example,), dynamic_shapes=dynamic)
