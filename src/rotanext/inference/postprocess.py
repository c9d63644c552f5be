"""From raw logits and deltas to detections of one image."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from rotanext.heads.anchors import STRIDES, AnchorRule
from rotanext.heads.coding import decode
from rotanext.models.network import flatten_levels
from rotanext.ops import rotated_nms


def best_candidates(logits: list[Tensor], threshold: float, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The best (anchor, class) pairs of `logits [B, A_l, C]` of each level: per image and level at most `top_k`.

    Gives image, level, anchor (counted over all levels), label and score, `[K]` each; by image, then level, best first. The
    whole batch is taken at once, so that a GPU is waited for a few times a batch and not a few times a level.
    """
    classes = logits[0].shape[2]
    flat = torch.cat(logits, 1).flatten()
    # Few pass. They are found by their logit, with some room, before anything is computed of them.
    limit = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else -math.inf
    index = (flat >= limit - 0.01 * (1 + abs(limit))).nonzero()[:, 0]
    scores = flat[index].float().sigmoid()
    # Stable sorts of ascending indices: ties go to the lower index on every device.
    order = torch.argsort(scores, descending=True, stable=True)
    index, scores = index[order], scores[order]
    anchor, label = index // classes, index % classes
    ends = torch.tensor([level.shape[1] for level in logits], device=index.device).cumsum(0)
    image, anchor = anchor // ends[-1], anchor % ends[-1]
    level = torch.searchsorted(ends, anchor, right=True)
    group, order = torch.sort(image * len(logits) + level, stable=True)
    rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
    order = order[(rank < top_k) & (scores[order] > threshold)]
    return image[order], level[order], anchor[order], label[order], scores[order]


def _finite(image: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Without boxes that are no numbers (half precision has overflowed): they overlap nothing, so nothing would suppress them."""
    keep = boxes.isfinite().all(1)
    return image[keep], boxes[keep], scores[keep], labels[keep]


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
    """Boxes `[N, 5]`, scores `[N]` and labels `[N]` of each image of a batch, best first, in pixels of the batch.

    sizes holds each image's (height, width) without padding, and may be fewer than the batch: the rest was filled up. Centres
    are held inside, as in the reference. Per level the best `top_k` (anchor, class) pairs above the threshold are decoded; over
    all levels together boxes of one class suppress each other by rotated NMS. What is not a number is not detected.
    """
    assert len(logits) == len(deltas) == len(STRIDES)
    if not sizes:
        return []
    used = len(sizes)
    flat_logits, flat_deltas = flatten_levels([x[:used] for x in logits], [x[:used] for x in deltas], num_classes)
    image, level, anchor, labels, scores = best_candidates(flat_logits, score_threshold, top_k)
    widths = [x.shape[3] for x in logits]
    first = torch.tensor([0, *(x.shape[1] for x in flat_deltas[:-1])], device=anchor.device).cumsum(0)
    candidates = anchors.of_levels(level, anchor - first[level], widths)
    boxes = decode(candidates, torch.cat(flat_deltas, 1)[image, anchor].float())
    limits = torch.tensor([(width - 1, height - 1) for height, width in sizes], dtype=boxes.dtype, device=boxes.device)
    image, boxes, scores, labels = _finite(image, boxes, scores, labels)
    boxes[:, :2] = torch.minimum(boxes[:, :2].clamp_min(0), limits[image])
    return _suppressed(image, boxes, scores, labels, used, iou_threshold, max_detections)


def detect_decoded(
    logits: list[Tensor], boxes: Tensor, *, score_threshold: float, top_k: int, iou_threshold: float, max_detections: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What `detect` gives, of a network that decodes by itself: per level logits `[B, A_l, C]`, and all boxes `[B, A, 5]`."""
    image, _, anchor, labels, scores = best_candidates(logits, score_threshold, top_k)
    found = _finite(image, boxes[image, anchor], scores, labels)
    return _suppressed(*found, len(boxes), iou_threshold, max_detections)


def _suppressed(
    image: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, images: int, iou_threshold: float, max_detections: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, scores and labels of each of so many images after rotated NMS; `image [K]` says, in order, whose they are."""
    counts = torch.searchsorted(image, torch.arange(images + 1, device=image.device)).tolist()
    results = []
    for start, end in pairwise(counts):
        part = slice(start, end)
        keep = start + rotated_nms(boxes[part], scores[part], labels[part], iou_threshold)[:max_detections]
        results.append((boxes[keep], scores[keep], labels[keep]))
    return results
