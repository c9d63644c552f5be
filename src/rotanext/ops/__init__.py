"""Rotated operators: one public function each; the device chooses the implementation behind it."""

from rotanext.ops.reference import polygon_iou, rotated_iou, rotated_iou_pairs, rotated_nms

__all__ = ["polygon_iou", "rotated_iou", "rotated_iou_pairs", "rotated_nms"]
