"""How well a recipe's priors fit a set's objects, and what to change about images, tiles and the recipe where they do not."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rotanext.boxes import corners_to_boxes
from rotanext.config import Config
from rotanext.heads.contract import Reach
from rotanext.labels.dataset import LabelSet
from rotanext.objects import LEAST_AREA
from rotanext.polygons import crosses, signed_area

_MOST = 20_000


@dataclass(frozen=True, eq=False)
class Coverage:
    """Boxes `[N, 5]` float32 as training sees them (resized by `scales`), their classes, and how well priors fit them."""

    boxes: Tensor
    names: list[str]
    scales: Tensor
    reach: Reach

    @property
    def missed(self) -> Tensor:
        """`[N]` whether no prior fits."""
        return self.reach.fit < self.reach.least


def cover(data: LabelSet, config: Config, resized: bool = True) -> Coverage:
    """The coverage of a set's sound objects (at most 20,000, evenly drawn) by a recipe's priors, at its image size."""
    corners, names, scales = [np.zeros((0, 4, 2))], list[str](), list[float]()
    for image in data.images:
        sound = ~crosses(image.objects.corners) & (np.abs(signed_area(image.objects.corners)) > LEAST_AREA)
        longest = max(image.width, image.height)
        scale = config.data.image_size / longest if resized and config.data.image_size and longest else 1.0
        held = image.objects.take(sound)
        corners.append(held.corners * scale)
        names += held.names
        scales += [scale] * len(held)
    joined = np.concatenate(corners)
    chosen = np.linspace(0, len(joined) - 1, min(len(joined), _MOST)).astype(int) if len(joined) else np.zeros(0, int)
    boxes = corners_to_boxes(torch.from_numpy(joined[chosen])).float()
    scale_of = torch.tensor([scales[i] for i in chosen], dtype=torch.float32)
    return Coverage(boxes, [names[i] for i in chosen], scale_of, config.head.reach(boxes, config.neck.strides, config.name))


def needs_cutting(data: LabelSet, config: Config, coverage: Coverage) -> bool:
    """Whether images are much larger than what the recipe works on, and a tenth of the objects too small once shrunk."""
    side = config.data.image_size or config.predict.tile
    longest = max((max(p.width, p.height) for p in data.images), default=0)
    if longest <= 1.5 * side or not len(coverage.boxes):
        return False
    return not config.data.image_size or float(coverage.boxes[:, 3].quantile(0.1)) < 12


def advise(data: LabelSet, config: Config, coverage: Coverage, cut: bool) -> list[str]:
    """Sentences on tile size, image size and priors; cut: whether the coverage is that of tiles, see `needs_cutting`."""
    lines = []
    boxes, scales = coverage.boxes, coverage.scales
    if not len(boxes):
        return ["There are no objects to judge tiles by."]
    longest = max((max(p.width, p.height) for p in data.images), default=0)
    long_edge, short_edge = boxes[:, 2] / scales, boxes[:, 3] / scales
    if cut:
        side = config.data.image_size or config.predict.tile
        reach = float(long_edge.quantile(0.99))
        tile = side if reach < 0.7 * side else 1 << int(np.ceil(np.log2(reach * 1.5)))
        overlap = int(min(tile // 2, max(tile // 5, -(-reach // 50) * 50)))
        lines.append(
            f"The largest image is {longest} pixels long, the recipe works on {side}, and shrunk objects would be too small. "
            f"Cut the data first: rotanext split DATA TILES --size {tile} --overlap {overlap} "
            f"(99 % of the objects are at most {reach:.0f} "
            "pixels long). The figures on what fits are those of such tiles."
        )
    elif float((short_edge < 6).float().mean()) > 0.2:
        lines.append("More than a fifth of the objects are less than 6 pixels wide: enlarge (rotanext split --rates 2.0).")
    return lines + coverage.reach.advice
