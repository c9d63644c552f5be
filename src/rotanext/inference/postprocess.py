"""From a network's raw outputs to the detections of each image, whatever the head."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from rotanext.config.parts import PredictConfig
from rotanext.heads.contract import Candidates, Head, Raw, rows
from rotanext.ops import rotated_nms


def best_candidates(logits: list[Tensor], threshold: float, top_k: int) -> tuple[Candidates, Tensor, Tensor]:
    """The best (prior, class) pairs of `logits [B, P_l, C]` of each level: per image and level at most `top_k`.

    Gives the candidates, their labels and scores, `[N]` each; by image, then level, best first. The
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
    prior, label = index // classes, index % classes
    sizes = torch.tensor([level.shape[1] for level in logits], device=index.device)
    ends = sizes.cumsum(0)
    image, prior = prior // ends[-1], prior % ends[-1]
    level = torch.searchsorted(ends, prior, right=True)
    group, order = torch.sort(image * len(logits) + level, stable=True)
    rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
    order = order[(rank < top_k) & (scores[order] > threshold)]
    level, prior = level[order], prior[order] - (ends[level[order]] - sizes[level[order]])
    return Candidates(image[order], level, prior), label[order], scores[order]


def _sound(image: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Without boxes that are no numbers (half precision has overflowed) or have no area: nothing overlaps, and suppresses, them."""
    keep = boxes.isfinite().all(1) & (boxes[:, 2:4] > 0).all(1)
    return image[keep], boxes[keep], scores[keep], labels[keep]


def detect(
    raw: Raw, head: Head, sizes: list[tuple[int, int]], options: PredictConfig, threshold: float
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes `[N, 5]`, scores `[N]` and labels `[N]` of each image of a batch, best first, in pixels of the batch.

    sizes holds each image's (height, width) without padding, and may be fewer than the batch: the rest was filled up. Centres
    are held inside where the head says so. Per level the best `top_k` (prior, class) pairs above the threshold are decoded; over
    all levels together boxes of one class suppress each other by rotated NMS. What is not a number, or has no area, is not detected.
    """
    if not sizes:
        return []
    raw = raw.images(slice(len(sizes)))
    chosen, labels, scores = best_candidates(rows(raw.logits, head.num_classes), threshold, options.top_k)
    boxes = head.decode(raw, chosen)
    image, boxes, scores, labels = _sound(chosen.image, boxes, scores, labels)
    if head.centres_inside:
        limits = torch.tensor([(width - 1, height - 1) for height, width in sizes], dtype=boxes.dtype, device=boxes.device)
        boxes[:, :2] = torch.minimum(boxes[:, :2].clamp_min(0), limits[image])
    return _suppressed(image, boxes, scores, labels, len(sizes), options)


def detect_decoded(
    logits: list[Tensor], boxes: Tensor, options: PredictConfig, threshold: float
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What `detect` gives, of a network that decodes by itself: per level logits `[B, P_l, C]`, and all boxes `[B, P, 5]`."""
    chosen, labels, scores = best_candidates(logits, threshold, options.top_k)
    first = torch.tensor([0, *(level.shape[1] for level in logits[:-1])], device=boxes.device).cumsum(0)
    found = _sound(chosen.image, boxes[chosen.image, first[chosen.level] + chosen.prior], scores, labels)
    return _suppressed(*found, len(boxes), options)


def _suppressed(
    image: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, images: int, options: PredictConfig
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, scores and labels of each of so many images after rotated NMS; `image [K]` says, in order, whose they are."""
    counts = torch.searchsorted(image, torch.arange(images + 1, device=image.device)).tolist()
    results = []
    for start, end in pairwise(counts):
        part = slice(start, end)
        keep = start + rotated_nms(boxes[part], scores[part], labels[part], options.iou_threshold)[: options.max_detections]
        results.append((boxes[keep], scores[keep], labels[keep]))
    return results
