"""Which object each anchor learns: the max-IoU assignment of RetinaNet on rotated IoU, without an anchors x objects matrix."""

from torch import Tensor

from rotanext.ops import assign_anchors


def assign(anchors: Tensor, boxes: Tensor, positive_iou: float = 0.5, negative_iou: float = 0.4) -> Tensor:
    """Assignment `[A]` (int64) of `anchors [A, 5]` to `boxes [G, 5]`: 0 negative, -1 ignored, i the i-th object (from 1).

    An anchor whose best IoU reaches positive_iou is positive (ties between objects: the earlier), below negative_iou negative,
    between ignored. Every object's best anchors (all ties, in float32) are positive as well, however low their IoU; where several
    objects claim one, the later wins. An object without area, or that overlaps no anchor, gets none. The same as the rule applied
    to the whole matrix of IoUs. Any anchors will do; those of a grid (`AnchorRule.grid`, its levels joined) are assigned fast.
    ValueError for other shapes, or unless 0 <= negative_iou <= positive_iou <= 1.
    """
    return assign_anchors(anchors, boxes, positive_iou, negative_iou)
