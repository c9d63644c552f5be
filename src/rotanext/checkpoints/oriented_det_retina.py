"""Rotated RetinaNet of oriented-det: our network with its anchors in the middle of cells, in another order, and a ReLU before P7.

The middle of a cell is half a stride from its corner, which is the same share of an anchor's sides on every level: it goes into
the biases of the shifts.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rotanext.checkpoints import mmrotate_retina
from rotanext.checkpoints.layout import Checkpoint, Layout, Rules, StateDict, Told, Translated, is_number
from rotanext.checkpoints.oriented_det import (
    Settings,
    class_names,
    numbers,
    of_detecting,
    refuse_other_pixels,
    said_of_averages,
    settings,
)
from rotanext.errors import UserError, counted, explain
from rotanext.heads.anchors import Convention

RULES: Rules = (
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(0\.)?", r"neck.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(0\.)?", r"neck.output.\1."),
    (r"^backbone\.fpn\.extra_blocks\.p6\.", "neck.extra.0."),
    (r"^backbone\.fpn\.extra_blocks\.p7\.", "neck.extra.1."),
    (r"^head\.conv_cls\.", "head.cls_out."),
    (r"^head\.conv_bbox\.", "head.reg_out."),
)
OUTPUTS = tuple(f"head.{name}.{leaf}" for name in ("conv_cls", "conv_bbox") for leaf in ("weight", "bias"))


class Anchors(NamedTuple):
    """A position's anchors, in the order of sizes first and ratios (width / height) second."""

    scale: float  # side of the smallest square, in strides
    octaves: int
    ratios: tuple[float, ...]


def anchors_of(found: Settings, path: Path) -> Anchors:
    """The anchors of a configuration; UserError for those that cannot be had here."""
    ratios = numbers(found.of("model", "anchor_ratios", [0.5, 1.0, 2.0])) or ()
    base, octaves = found.of("model", "anchor_octave_base_scale", 4), found.of("model", "anchor_scales_per_octave", 3)
    if base is None or octaves is None:  # one size for each level
        sizes = set(numbers(found.of("model", "anchor_scales", [8])) or ())
        base, octaves = (sizes.pop() if len(sizes) == 1 else None), 1
    angles = found.of("model", "anchor_angles", None)
    possible = type(octaves) is int and octaves > 0 and is_number(base) and base > 0 and angles in (None, [], [0], [0.0])
    if not possible or not ratios or min(ratios) <= 0:
        what = f"anchors of scale {base}, octaves {octaves}, ratios {ratios}, angles {angles}"
        advice = "These cannot be had here: train again."
        raise UserError(explain(path, what, "horizontal ones, in strides of the same sizes on all levels", advice))
    return Anchors(float(base), octaves, ratios)


def translate(checkpoint: Checkpoint) -> Translated:
    """Outputs in our order of anchors, for shifts from a cell's corner; what scales or moves them goes into their weights."""
    path, weights, found = checkpoint.path, dict(checkpoint.weights), settings(checkpoint.path)
    _refuse_others(weights, path)
    refuse_other_pixels(found, path)
    anchors = anchors_of(found, path)
    count = anchors.octaves * len(anchors.ratios)
    for name, least in (("conv_cls", 1), ("conv_bbox", 5)):
        rows = [weights[f"head.{name}.{leaf}"].shape[:1] for leaf in ("weight", "bias")]
        if not rows[0] or rows[0] != rows[1] or rows[0][0] % (count * least) or (least == 5 and rows[0][0] != count * least):
            what = f"{name} of {rows[0][0] if rows[0] else 0} outputs"
            advice = "Put its configuration beside it, as FILE.json or config.json."
            raise UserError(explain(path, what, f"those of {counted(count, 'anchor')} a position", advice))
    order = torch.arange(count).view(anchors.octaves, -1).T.flatten()  # ratios first
    for leaf in ("weight", "bias"):
        logits, deltas = weights[f"head.conv_cls.{leaf}"], weights[f"head.conv_bbox.{leaf}"]
        weights[f"head.conv_cls.{leaf}"] = logits.unflatten(0, (count, -1))[order].flatten(0, 1)
        weights[f"head.conv_bbox.{leaf}"] = _deltas(deltas.unflatten(0, (count, 5)), found, anchors, path)[order].flatten(0, 1)
    notes = ["anchors lie in the middle of cells: half a stride is in the biases", *said_of_averages(checkpoint)]
    return Translated(weights, [found.note, *notes])


def _refuse_others(weights: StateDict, path: Path) -> None:
    """UserError for oriented-det's FCOS, which has outputs of the same names, and for pyramids that cannot be built here."""
    if "head.conv_angle.weight" in weights:
        raise UserError(
            explain(path, "an FCOS of oriented-det", "its RetinaNet or RTMDet", "This architecture cannot be built here.")
        )
    has_extra = {f"backbone.fpn.extra_blocks.{level}.weight" for level in ("p6", "p7")} <= weights.keys()
    maps = {key.split(".")[3] for key in weights if key.startswith("backbone.fpn.inner_blocks.")}
    if not has_extra or maps != {"0", "1", "2"}:
        what = f"a pyramid on {counted(len(maps), 'map')}, {'with' if has_extra else 'without'} P6 and P7"
        advice = "It was trained without fpn_extra_level, or with other fpn_returned_layers: this pyramid cannot be built here."
        raise UserError(explain(path, what, "one on 3 maps, with P6 and P7", advice))


def _deltas(values: Tensor, found: Settings, anchors: Anchors, path: Path) -> Tensor:
    """Weights or biases `[A, 5, ...]` of the outputs for deltas as ours are: not normalised, and from the corner of the cell."""
    means = numbers(found.of("model", "target_means", [0.0] * 5), 5)
    deviations = numbers(found.of("model", "target_stds", [1.0] * 5), 5)
    turn = found.of("model", "roi_norm_factor", None)
    if means is None or deviations is None or not (turn is None or is_number(turn)):
        what = f"deltas normalised by {means}, {deviations}, {turn}"
        raise UserError(explain(path, what, "five means, five deviations and a factor", "Check its configuration."))
    factors, added = torch.tensor(deviations).double(), torch.tensor(means).double().repeat(len(values), 1)
    if turn is not None:
        factors[4] *= turn * math.pi
        added[:, 4] *= turn * math.pi
    scaled = values.double() * factors.view(1, 5, *[1] * (values.ndim - 2))
    if values.ndim == 2:  # biases
        sizes = [anchors.scale * 2 ** (octave / anchors.octaves) for octave in range(anchors.octaves)]
        sides = [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for size in sizes for ratio in anchors.ratios]
        added[:, :2] += 0.5 / torch.tensor(sides).double()  # half a stride in widths and heights, which are in strides
        scaled += added
    return scaled.to(values.dtype)


def tell(checkpoint: Checkpoint, weights: StateDict, anchors: Convention | None) -> Told:
    """The published recipe with the architecture of the weights, and the configuration's anchors, sizes, scores and NMS."""
    if anchors not in (None, "v0"):
        raise UserError(explain(checkpoint.path, "a file of oriented-det", "anchors v0, which it has", "Leave out --anchors."))
    found = settings(checkpoint.path)
    theirs = anchors_of(found, checkpoint.path)
    recipe = mmrotate_retina.config_values(weights, "v0", checkpoint.path)
    ratios = [1 / ratio for ratio in theirs.ratios]  # ours are height / width
    head = {"anchor_scale": theirs.scale, "anchor_octaves": theirs.octaves, "anchor_ratios": ratios}
    values = {
        "name": f"rotated-retinanet_{recipe['backbone']['name']}_oriented-det",
        "neck": recipe["neck"] | {"kind": "fpn-relu"},
        "head": recipe["head"] | head,
    }
    return Told(recipe | values | of_detecting(found, recipe), class_names(found), [])


LAYOUT = Layout("oriented-det retinanet", "detector", (OUTPUTS,), RULES, translate, tell)
