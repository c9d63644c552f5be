"""Losses: pure functions of raw outputs and targets.

The Gaussian losses compare boxes as normal distributions: mean the centre, covariance R diag(w/2, h/2)^2 R^T
(Yang et al., GWD, arXiv:2101.11952; KLD, arXiv:2106.01883). They are computed in float32 or wider and in the frame where they are
well conditioned, so that very long, very small and identical boxes give finite values and gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rotanext.ops import rotated_iou_pairs
from rotanext.ops.dynamic import LEAST_SIDE

LEAST_IOU = 1e-6  # of the IoU loss: pairs below it have no gradient
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss, elementwise, of `logits [...]` against `targets [...]` in {0, 1} (Lin et al., arXiv:1708.02002)."""
    probability = logits.sigmoid()
    miss = probability + targets - 2 * probability * targets  # 1 - p where the target is 1, p where it is 0
    weight = (FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)) * miss.square()
    return weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def quality_focal_loss(logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
    """Quality focal loss `[N]` of logits `[N, C]`, summed over the classes (Li et al., arXiv:2006.04388; beta 2).

    What the scores should be: the quality `[N]`, from 0 to 1, for the class of the labels `[N]`, and 0 for the others. So a row of
    quality 0 is background, whatever its label, and one whose label is no class as well.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    own = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    wanted = torch.where(own, quality[:, None].to(logits.dtype), 0.0)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (entropy * (wanted - logits.sigmoid()).square()).sum(1)


def rotated_iou_loss(pred: Tensor, target: Tensor) -> Tensor:
    """`1 - max(IoU, 1e-6)` `[N]` of `pred [N, 5]` with `target [N, 5]`, by the exact IoU; float32 at least, also under autocast.

    A side below 0.001, or a negative one, counts as 0.001, as in the assignment, and passes its gradient on: what is negative grows
    where that gains overlap, and never counts as an area. Pairs with an IoU below 1e-6 (two such sides, no overlap, not finite)
    have no gradient. Where edges coincide it is the mean of both sides, so that of a perfect prediction is 0.
    """
    pred, target = (boxes if boxes.dtype == torch.float64 else boxes.float() for boxes in (pred, target))
    sides = pred[:, 2:4]
    sides = sides.detach().clamp_min(LEAST_SIDE) + (sides - sides.detach())  # the second part is 0, and carries the gradient
    return 1 - rotated_iou_pairs(torch.cat([pred[:, :2], sides, pred[:, 4:]], 1), target).clamp_min(LEAST_IOU)


def _gaussian(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre `[N, 2]`, half sides `[N]` clamped to [1e-7, 1e7] / 2, angle `[N]`; float32 at least."""
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    half = boxes[:, 2:4].clamp(1e-7, 1e7) / 2
    return boxes[:, :2], half[:, 0], half[:, 1], boxes[:, 4]


def _squash(distance: Tensor) -> Tensor:
    """`1 - 1 / (1 + ln(1 + d))`: from [0, inf) to [0, 1)."""
    return 1 - 1 / (1 + torch.log1p(distance))


def _kl_divergence(pred: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence `[N]` of the target's Gaussian from the prediction's, in the prediction's own frame."""
    centre_p, wp, hp, angle_p = _gaussian(pred)
    centre_t, wt, ht, angle_t = _gaussian(target)
    cos, sin = torch.cos(angle_p), torch.sin(angle_p)
    dx, dy = (centre_p - centre_t).unbind(-1)
    shift = ((dx * cos + dy * sin) / wp).square() + ((dy * cos - dx * sin) / hp).square()
    turn = angle_t - angle_p
    cos2, sin2 = torch.cos(turn).square(), torch.sin(turn).square()
    # tr(Sp^-1 St) and the determinants' ratio as ratios of sides: no product that could over- or underflow.
    spread = cos2 * (wt / wp).square() + sin2 * (ht / wp).square() + sin2 * (wt / hp).square() + cos2 * (ht / hp).square()
    log_ratio = torch.log(wp / wt) + torch.log(hp / ht)
    return shift / 2 + spread / 2 + log_ratio - 1


def kld_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Stable KLD loss `[N]` of `pred [N, 5]` against `target [N, 5]`: `1 - 1 / (1 + ln(1 + d))`, d the divergence, no root."""
    return _squash(_kl_divergence(pred, target).clamp_min(0))


def kld_root_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Plain KLD loss `[N]`: like `kld_loss` on the square root of the divergence, its gradient unbounded near a perfect match."""
    return _squash(_kl_divergence(pred, target).clamp_min(1e-7).sqrt())


def gwd_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Gaussian Wasserstein loss `[N]`, the distance divided by the geometric mean of the sizes."""
    centre_p, wp, hp, angle_p = _gaussian(pred)
    centre_t, wt, ht, angle_t = _gaussian(target)
    turn = angle_t - angle_p
    cos2, sin2 = torch.cos(turn).square(), torch.sin(turn).square()
    trace = cos2 * ((wp * wt).square() + (hp * ht).square()) + sin2 * ((wp * ht).square() + (hp * wt).square())
    root_det = (wp * hp * wt * ht).clamp_min(1e-7)
    cross = (trace + 2 * root_det).clamp_min(1e-7).sqrt()
    spread = wp.square() + hp.square() + wt.square() + ht.square() - 2 * cross
    distance = ((centre_p - centre_t).square().sum(-1) + spread).clamp_min(1e-7).sqrt()
    return _squash(distance / (2 * root_det.sqrt().sqrt()))


REGRESSION_LOSSES = {"kld-stable": kld_loss, "kld": kld_root_loss, "gwd": gwd_loss}
