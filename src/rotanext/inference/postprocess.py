"""From a network's raw outputs to the detections of each image, whatever the head."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from rotanext.config.parts import PredictConfig
from rotanext.heads.contract import Candidates, Head, Raw, rows
from rotanext.ops import rotated_nms

AtLimit = Callable[[Tensor, Candidates], Tensor]  # see `heads.contract.HeadSection.at_limit`
Sizes = list[tuple[int, int]]  # height and width of each image, without padding
_LONGEST = 2.0  # side of a box, in diagonals of its image


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
    ends = torch.tensor([level.shape[1] for level in logits], device=index.device).cumsum(0)
    image, prior = prior // ends[-1], prior % ends[-1]
    level = torch.searchsorted(ends, prior, right=True)
    group, order = torch.sort(image * len(logits) + level, stable=True)
    rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
    order = order[(rank < top_k) & (scores[order] > threshold)]
    return Candidates(image[order], level[order], prior[order]), label[order], scores[order]


def is_box(boxes: Tensor, chosen: Candidates, sizes: Sizes, drop_absurd: bool, at_limit: AtLimit) -> Tensor:
    """Which decoded boxes `[N, 5]` of chosen priors are such, `[N]` bool; the others overlap nothing, or everything.

    Never those that are no numbers (half precision has overflowed) or have no area. With `drop_absurd` neither those with a side
    at a limit of the head's, nor those with one longer than twice the diagonal of their image.
    """
    keep = boxes.isfinite().all(1) & (boxes[:, 2:4] > 0).all(1)
    if drop_absurd:
        longest = torch.tensor([_LONGEST * math.hypot(*size) for size in sizes], dtype=boxes.dtype, device=boxes.device)
        keep &= (boxes[:, 2:4].amax(1) <= longest[chosen.image]) & ~at_limit(boxes, chosen)
    return keep


def detect(
    raw: Raw, head: Head, sizes: Sizes, options: PredictConfig, threshold: float, at_limit: AtLimit
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes `[N, 5]`, scores `[N]` and labels `[N]` of each image of a batch, best first, in pixels of the batch.

    sizes holds each image's (height, width) without padding, and may be fewer than the batch: the rest was filled up. Centres
    are held inside where the head says so. Per level the best `top_k` (prior, class) pairs above the threshold are decoded; over
    all levels together boxes of one class suppress each other by rotated NMS. What `is_box` refuses is not detected.
    """
    if not sizes:
        return []
    raw = raw.images(slice(len(sizes)))
    chosen, labels, scores = best_candidates(rows(raw.logits, head.num_classes), threshold, options.top_k)
    boxes = head.decode(raw, chosen)
    keep = is_box(boxes, chosen, sizes, options.drop_absurd, at_limit)
    image, boxes, scores, labels = chosen.image[keep], boxes[keep], scores[keep], labels[keep]
    if head.centres_inside:
        limits = torch.tensor([(width - 1, height - 1) for height, width in sizes], dtype=boxes.dtype, device=boxes.device)
        boxes[:, :2] = torch.minimum(boxes[:, :2].clamp_min(0), limits[image])
    return _suppressed(image, boxes, scores, labels, len(sizes), options)


def detect_decoded(
    logits: list[Tensor], boxes: Tensor, sizes: Sizes, options: PredictConfig, threshold: float, at_limit: AtLimit
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What `detect` gives, of a network that decodes by itself: per level logits `[B, P_l, C]`, and all boxes `[B, P, 5]`."""
    if not sizes:
        return []
    logits, boxes = [level[: len(sizes)] for level in logits], boxes[: len(sizes)]
    chosen, labels, scores = best_candidates(logits, threshold, options.top_k)
    found = boxes[chosen.image, chosen.prior]
    keep = is_box(found, chosen, sizes, options.drop_absurd, at_limit)
    return _suppressed(chosen.image[keep], found[keep], scores[keep], labels[keep], len(sizes), options)


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
