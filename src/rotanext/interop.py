"""Detections in the types of other libraries: supervision, torchvision, and the COCO result format."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rotanext.detections import Detections
from rotanext.errors import UserError

if TYPE_CHECKING:
    from torchvision.tv_tensors import BoundingBoxes


def to_supervision(detections: Detections) -> Any:
    """A `supervision.Detections`: upright boxes in `xyxy`, the rotated ones as `data["xyxyxyxy"]` (corners `[N, 4, 2]` float32).

    `OrientedBoxAnnotator` draws the latter; names are in `data["class_name"]`. Raises `UserError` without supervision.
    """
    import numpy as np

    try:
        import supervision
    except ImportError as error:
        raise UserError(f"supervision cannot be imported ({error}); install it: pip install supervision") from None
    corners = detections.corners.detach().cpu().numpy().astype(np.float32).reshape(-1, 4, 2)
    return supervision.Detections(
        xyxy=np.concatenate([corners.min(1), corners.max(1)], 1),
        confidence=detections.scores.detach().cpu().numpy().astype(np.float32),
        class_id=detections.labels.detach().cpu().numpy().astype(int),
        data={"xyxyxyxy": corners, "class_name": np.array(detections.names, dtype=str)},
    )


def to_tv_tensors(detections: Detections, height: int, width: int) -> "BoundingBoxes":
    """torchvision's `BoundingBoxes` `[N, 5]` in its format CXCYWHR: pixels, and degrees counter-clockwise on the screen.

    height and width: of the image, in pixels.
    """
    import torch
    from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

    boxes = detections.boxes
    turned = torch.cat([boxes[:, :4], -boxes[:, 4:] * (180 / math.pi)], 1)
    return BoundingBoxes(turned, format=BoundingBoxFormat.CXCYWHR, canvas_size=(height, width))


def from_tv_tensors(boxes: "BoundingBoxes") -> Any:
    """Our boxes `[N, 5]` (le90, float32, see boxes.py) of torchvision's in any of its rotated formats."""
    import torch
    from torchvision.transforms.v2.functional import convert_bounding_box_format
    from torchvision.tv_tensors import BoundingBoxFormat

    from rotanext.boxes import regularize

    plain = convert_bounding_box_format(boxes, new_format=BoundingBoxFormat.CXCYWHR).as_subclass(torch.Tensor).float()
    return regularize(torch.cat([plain[:, :4], -plain[:, 4:] * (math.pi / 180)], 1))


def to_coco_results(
    found: Mapping[int, Detections], category_ids: Mapping[str, int] | Sequence[int] | None = None, turned: bool = True
) -> list[dict[str, Any]]:
    """COCO's result list of detections by image id, ready for `json.dump`.

    turned: `bbox` is `[cx, cy, w, h, angle]` (pixels, degrees counter-clockwise: Detectron2's XYWHA_ABS), else COCO's upright
    `[left, top, width, height]`; `segmentation` holds the four corners either way. category_ids: of each class name, or in the
    order of the classes; 1, 2, ... without. Raises `UserError` where a class has none.
    """
    results = []
    for image, detections in found.items():
        ids = _category_ids(detections.class_names, category_ids)
        rows = zip(
            detections.labels.tolist(),
            detections.scores.tolist(),
            detections.boxes.tolist(),
            detections.corners.tolist(),
            strict=True,
        )
        for label, score, (cx, cy, w, h, angle), corners in rows:
            (left, top), (right, bottom) = (tuple(end(values) for values in zip(*corners, strict=True)) for end in (min, max))
            results.append(
                {
                    "image_id": image,
                    "category_id": ids[label],
                    "bbox": [cx, cy, w, h, -math.degrees(angle)] if turned else [left, top, right - left, bottom - top],
                    "segmentation": [[value for point in corners for value in point]],
                    "score": score,
                }
            )
    return results


def _category_ids(names: Sequence[str], chosen: Mapping[str, int] | Sequence[int] | None) -> list[int]:
    if chosen is None:
        return list(range(1, len(names) + 1))
    if isinstance(chosen, Mapping):
        missing = [name for name in names if name not in chosen]
        if missing:
            raise UserError(f"category_ids: found no id of {', '.join(missing[:5])}; expected one for each class. Add it.")
        return [chosen[name] for name in names]
    if len(chosen) != len(names):
        raise UserError(f"category_ids: found {len(chosen)} ids; expected {len(names)}, one for each class. Correct the list.")
    return list(chosen)
