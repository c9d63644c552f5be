"""From raw logits and deltas to detections of one picture."""

import math

import torch
from torch import Tensor

from rotanext.anchors import STRIDES, AnchorRule
from rotanext.coding import decode
from rotanext.models.retinanet import flatten_levels
from rotanext.ops import rotated_nms


def best_candidates(logits: Tensor, threshold: float, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, anchor indices and labels `[K]` of the best (anchor, class) pairs of `logits [A, C]`, at most `top_k`, best first."""
    flat = logits.flatten()
    # Few pass. They are found by their logit, with some room, before anything is computed of them.
    limit = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else -math.inf
    index = (flat >= limit - 0.01 * (1 + abs(limit))).nonzero()[:, 0]
    scores = flat[index].float().sigmoid()
    passed = (scores > threshold).nonzero()[:, 0]
    index, scores = index[passed], scores[passed]
    # Stable sort of ascending indices: ties go to the lower index on every device.
    order = torch.argsort(scores, descending=True, stable=True)[:top_k]
    index = index[order]
    return scores[order], index // logits.shape[1], index % logits.shape[1]


def detect(
    logits: list[Tensor],
    deltas: list[Tensor],
    sizes: list[tuple[int, int]],
    *,
    num_classes: int,
    anchors: AnchorRule,
    score_threshold: float,
    top_k: int,
    iou_threshold: float,
    max_detections: int,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes `[N, 5]`, scores `[N]` and labels `[N]` of each picture of a batch, best first, in pixels of the batch.

    sizes holds each picture's (height, width) without padding; centres are held inside, as in the reference. Per level the best
    `top_k` (anchor, class) pairs above the threshold are decoded; over all levels together boxes of one class suppress each other
    by rotated NMS.
    """
    flat_logits, flat_deltas = flatten_levels(logits, deltas, num_classes)
    results = []
    for image, (height, width) in enumerate(sizes):
        parts = []
        for raw, level_logits, level_deltas, stride in zip(logits, flat_logits, flat_deltas, STRIDES, strict=True):
            scores, index, labels = best_candidates(level_logits[image], score_threshold, top_k)
            candidates = anchors.at(index, raw.shape[3], stride)
            parts.append((decode(candidates, level_deltas[image][index].float()), scores, labels))
        boxes, scores, labels = (torch.cat(values) for values in zip(*parts, strict=True))
        boxes[:, 0].clamp_(0, width - 1)
        boxes[:, 1].clamp_(0, height - 1)
        keep = rotated_nms(boxes, scores, labels, iou_threshold)[:max_detections]
        results.append((boxes[keep], scores[keep], labels[keep]))
    return results
