"""An exported detector against the one in PyTorch, on real tiles: numbers, a verdict, and a report of both."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotanext.boxes import boxes_to_corners
from rotanext.detections import Detections
from rotanext.errors import counted
from rotanext.export.graph import DecodedNetwork
from rotanext.inference.detector import Detector
from rotanext.ops import rotated_iou
from rotanext.system.files import write_bytes

Tile = np.ndarray  # uint8 RGB [H, W, 3]
PRIORS = 500  # a tile's best ones, whose boxes and scores are compared one by one
COUNTED_FROM = 0.1  # score: weaker detections come and go at the threshold
MATCH_IOU = 0.5


@dataclass(frozen=True)
class Tolerance:
    """What an exported detector may differ by: most of scores, of corners in sides of their box, least share of matches."""

    score: float
    corner: float
    matched: float


# fp32: rounding, summed up over a hundred layers. fp16: 11 bits instead of 24. int8: 8, so single priors may be far off, and the
# detections decide; what it costs is told by --eval.
TOLERANCES = {"fp32": Tolerance(1e-3, 1e-2, 0.99), "fp16": Tolerance(0.05, 0.05, 0.97), "int8": Tolerance(0.5, 0.25, 0.85)}


@dataclass
class Parity:
    """Differences between an exported detector and PyTorch's, the largest over all tiles."""

    precision: str
    engine: str
    tolerance: Tolerance
    tiles: int = 0
    images: str = ""  # where the tiles were taken from
    batches: list[list[int]] = field(default_factory=list)  # (B, H, W) of each batch
    priors: int = 0
    score_difference: float = 0.0
    corner_difference_px: float = 0.0
    corner_difference_relative: float = 0.0  # in longer sides of the box
    score_difference_p99: float = 0.0
    corner_difference_relative_p99: float = 0.0
    detections: int = 0  # of PyTorch
    detections_exported: int = 0
    matched: float = 1.0  # share of both sides' detections that have a counterpart of one class at an IoU of MATCH_IOU
    matched_score_difference: float = 0.0
    accuracy: dict[str, dict[str, float | None]] | None = None  # of PyTorch and exported, with --eval

    @property
    def faults(self) -> list[str]:
        """What is beyond tolerance, in words."""
        allowed, found = self.tolerance, []
        corner = self.corner_difference_relative if self.precision == "fp32" else self.corner_difference_relative_p99
        judged = (
            ("scores differ", self.score_difference, allowed.score),
            ("corners differ, in sides of their boxes,", corner, allowed.corner),
        )
        found += [f"{what} by {value:.3g}; at most {most:g} is allowed" for what, value, most in judged if not value <= most]
        if not self.matched >= allowed.matched:
            found.append(f"{self.matched:.1%} of the detections match; at least {allowed.matched:.1%} is needed")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data, verdict included."""
        return {"passed": not self.faults, "faults": self.faults, **asdict(self)}

    def text(self) -> str:
        """A few lines for the terminal."""
        on = f"{counted(self.tiles, 'tile')} of {self.images or 'images'}"
        shapes = counted(len({tuple(b) for b in self.batches}), "shape")
        lines = [
            f"{self.engine} {self.precision} against PyTorch fp32 on {on}, {len(self.batches)} batches of {shapes}:",
            f"  scores of {self.priors} priors: at most {self.score_difference:.2g} apart (99%: {self.score_difference_p99:.2g})",
            f"  their boxes' corners: at most {self.corner_difference_px:.2g} px apart, {self.corner_difference_relative:.2g} of "
            f"the box's longer side (99%: {self.corner_difference_relative_p99:.2g})",
            f"  detections from {COUNTED_FROM}: {self.detections} and {self.detections_exported}, {self.matched:.2%} match at IoU "
            f"{MATCH_IOU}, scores at most {self.matched_score_difference:.2g} apart",
        ]
        for name, values in (self.accuracy or {}).items():
            figures = ", ".join(f"{key} {'none' if value is None else f'{value:.4f}'}" for key, value in values.items())
            lines.append(f"  {figures} ({name})")
        return "\n".join([*lines, *(f"  FAILED: {fault}" for fault in self.faults)])

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        write_bytes(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())


def compare(reference: Detector, exported: Detector, tiles: Sequence[Tile], precision: str, engine: str) -> Parity:
    """Compare two detectors of the same weights on tiles, single ones, batches and odd sizes."""
    parity = Parity(precision, engine, TOLERANCES[precision], tiles=len(tiles))
    network = DecodedNetwork(reference.model)
    differences = []
    for batch in _batches(tiles):
        parity.batches.append(list(batch.shape[:3]))
        differences.append(_compare_priors(network, exported, batch))
    scores, pixels, relative = (torch.cat(parts) for parts in zip(*differences, strict=True))
    parity.priors = len(pixels)
    parity.score_difference, parity.score_difference_p99 = _largest(scores)
    parity.corner_difference_px, _ = _largest(pixels)
    parity.corner_difference_relative, parity.corner_difference_relative_p99 = _largest(relative)
    parity.matched = share_matched(((reference(tile), exported(tile)) for tile in tiles), parity)
    return parity


def share_matched(pairs: Iterable[tuple[Detections, Detections]], parity: Parity) -> float:
    """Share of both sides' detections that have a counterpart; their numbers and differences of scores go to `parity`."""
    matched = total = 0
    for expected, found in pairs:
        for one, other in ((expected, found), (found, expected)):
            count, difference = _match(one.above(COUNTED_FROM), other)
            matched += count
            parity.matched_score_difference = max(parity.matched_score_difference, difference)
        counts = len(expected.above(COUNTED_FROM)), len(found.above(COUNTED_FROM))
        parity.detections, parity.detections_exported = parity.detections + counts[0], parity.detections_exported + counts[1]
        total += sum(counts)
    return matched / total if total else 1.0


def _batches(tiles: Sequence[Tile]) -> list[np.ndarray]:
    """Every tile by itself, the first and its mirror image at once, and a part of it with odd sides."""
    first = tiles[0]
    part = first[: max(1, first.shape[0] * 2 // 3 | 1), : max(1, first.shape[1] * 3 // 5 | 1)]
    return [*(tile[None] for tile in tiles), np.stack([first, first[:, ::-1]]), np.ascontiguousarray(part)[None]]


def _largest(values: Tensor) -> tuple[float, float]:
    """The largest value and the 99th percentile; infinity where something is no number."""
    values = values.nan_to_num(nan=torch.inf, posinf=torch.inf).flatten().sort().values
    return float(values[-1]), float(values[min(len(values) - 1, int(len(values) * 0.99))])


def _compare_priors(network: DecodedNetwork, exported: Detector, batch: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Differences of scores `[K, C]`, of corners in pixels `[K]` and in longer sides `[K]`, at the best priors of either."""
    with torch.no_grad():
        logits, boxes = network(torch.from_numpy(np.ascontiguousarray(batch)))
    if exported.exported is not None:
        levels, other_boxes = exported.exported(np.ascontiguousarray(batch))
        other_logits = torch.cat(levels, 1)
    else:
        raise AssertionError("not an exported detector")
    best = torch.maximum(logits, other_logits).amax(2).topk(min(PRIORS, logits.shape[1]), 1).indices
    image = torch.arange(len(batch))[:, None].expand_as(best)
    score = (logits[image, best].sigmoid() - other_logits[image, best].sigmoid()).abs().flatten(0, 1)
    a, b = (boxes_to_corners(values[image, best].flatten(0, 1).double()) for values in (boxes, other_boxes))
    # a square's first corner may be any: the best of the four ways to count them
    shifts = torch.stack([(a - b.roll(turn, 1)).norm(dim=-1).amax(1) for turn in range(4)]).amin(0)
    side = boxes[image, best].flatten(0, 1)[:, 2].double().clamp_min(1.0)
    return score, shifts, shifts / side


def _match(one: Detections, other: Detections) -> tuple[int, float]:
    """How many detections have a counterpart, and the largest difference of their scores."""
    if not len(one) or not len(other):
        return 0, 0.0
    iou = rotated_iou(one.boxes, other.boxes)
    iou[one.labels[:, None] != other.labels[None]] = 0
    best, index = iou.max(1)
    found = best >= MATCH_IOU
    difference = (one.scores - other.scores[index]).abs()[found]
    return int(found.sum()), float(difference.max()) if len(difference) else 0.0
