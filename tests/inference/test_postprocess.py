"""From logits and deltas to detections: threshold, top k, ties, suppression, limits."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from networks import small_config
from rotanext.heads.anchors import STRIDES, V0
from rotanext.heads.coding import encode
from rotanext.heads.contract import Raw, rows
from rotanext.inference.postprocess import best_candidates, detect, detect_decoded
from rotanext.ops import rotated_iou

CLASSES = 2
SIDE = 128
SIZES = [(SIDE // s, SIDE // s) for s in STRIDES]
CONFIG = small_config()
OPTIONS = CONFIG.predict.model_copy(update={"score_threshold": 0.05, "top_k": 2000, "iou_threshold": 0.1, "max_detections": 2000})
HEAD = CONFIG.head.build(8, STRIDES, CLASSES)
AT_LIMIT = partial(CONFIG.head.at_limit, strides=STRIDES)
Found = tuple[Tensor, Tensor, Tensor]
Said = list[tuple[list[float], float, int]]  # box, score, label


def logit(score: float) -> float:
    return math.log(score / (1 - score))


@pytest.mark.parametrize(
    ("scores", "threshold", "top_k", "expected"),
    [
        ([[0.9, 0.1], [0.3, 0.6]], 0.2, 10, [(0, 0), (1, 1), (1, 0)]),
        ([[0.9, 0.1], [0.3, 0.6]], 0.2, 2, [(0, 0), (1, 1)]),
        ([[0.9, 0.1], [0.3, 0.6]], 0.95, 10, []),
        ([[0.5, 0.5], [0.5, 0.5]], 0.4, 3, [(0, 0), (0, 1), (1, 0)]),  # ties: the lower index
        ([[0.5, 0.5], [0.5, 0.5]], 0.5, 3, []),  # above the threshold, not at it
    ],
    ids=["order", "top-k", "none", "ties", "at-threshold"],
)
def test_best_candidates(scores: list[list[float]], threshold: float, top_k: int, expected: list[tuple[int, int]]) -> None:
    logits = torch.tensor([[[logit(s) for s in row] for row in scores]])
    chosen, labels, found = best_candidates([logits], threshold, top_k)
    assert list(zip(chosen.prior.tolist(), labels.tolist(), strict=True)) == expected
    assert found.tolist() == pytest.approx([scores[a][c] for a, c in expected])


def test_best_candidates_of_a_batch_are_those_of_each_level() -> None:
    """Against the plain way: one image, one level at a time."""
    generator = torch.Generator().manual_seed(0)
    # few different values, so that many tie
    levels = [torch.randint(-30, 10, (3, count, CLASSES), generator=generator) / 5 for count in (50, 20, 9, 4, 1)]
    expected, first = [], [0, 50, 70, 79, 83]
    for image in range(3):
        for number, level in enumerate(levels):
            scores = level[image].flatten().sigmoid().tolist()
            best = sorted((k for k in range(len(scores)) if scores[k] > 0.2), key=lambda k: (-scores[k], k))[:7]
            expected += [(image, number, first[number] + k // CLASSES, k % CLASSES, scores[k]) for k in best]
    chosen, labels, scores = best_candidates(levels, 0.2, 7)
    assert list(zip(*(values.tolist() for values in (*chosen, labels, scores)), strict=True)) == expected
    assert len(expected) > 60


def maps(*images: Said) -> Raw:
    """Head outputs that say this, each at the free anchor with the best IoU."""
    anchors = torch.cat(V0.grid(SIZES))
    logits = torch.full((len(images), len(anchors), CLASSES), -20.0)
    deltas = torch.zeros(len(images), len(anchors), 5)
    for i, image in enumerate(images):
        for box, score, label in image:
            overlap = rotated_iou(anchors, torch.tensor([box]))[:, 0]
            overlap[logits[i].amax(1) > -20] = -1
            anchor = overlap.argmax()
            logits[i, anchor, label] = logit(score)
            deltas[i, anchor] = encode(anchors[anchor], torch.tensor(box))
    counts = [h * w * V0.per_position for h, w in SIZES]

    def as_maps(flat: Tensor) -> list[Tensor]:
        return [
            part.reshape(len(flat), h, w, -1).permute(0, 3, 1, 2) for part, (h, w) in zip(flat.split(counts, 1), SIZES, strict=True)
        ]

    return Raw(as_maps(logits), as_maps(deltas))


def run(*images: Said, sizes: list[tuple[int, int]] | None = None, **changes: float) -> list[Found]:
    options = OPTIONS.model_copy(update=changes)
    return detect(maps(*images), HEAD, sizes or [(SIDE, SIDE)] * len(images), options, options.score_threshold, AT_LIMIT)


A, B = [40.0, 40, 50, 20, 0.4], [90.0, 90, 30, 16, -0.8]
NEAR_A = [42.0, 41, 50, 20, 0.4]


@pytest.mark.parametrize(
    ("said", "changes", "expected"),
    [
        ([], {}, []),
        ([(A, 0.9, 1)], {}, [(A, 0.9, 1)]),
        ([(B, 0.3, 0), (A, 0.9, 1)], {}, [(A, 0.9, 1), (B, 0.3, 0)]),  # best first
        ([(A, 0.9, 1), (NEAR_A, 0.8, 1)], {}, [(A, 0.9, 1)]),  # one class suppresses
        ([(A, 0.9, 1), (NEAR_A, 0.8, 0)], {}, [(A, 0.9, 1), (NEAR_A, 0.8, 0)]),  # another does not
        ([(A, 0.9, 1), (NEAR_A, 0.8, 1)], {"iou_threshold": 0.95}, [(A, 0.9, 1), (NEAR_A, 0.8, 1)]),
        ([(A, 0.9, 1), (B, 0.04, 0)], {}, [(A, 0.9, 1)]),
        ([(A, 0.9, 1), (B, 0.04, 0)], {"score_threshold": 0.01}, [(A, 0.9, 1), (B, 0.04, 0)]),
        ([(A, 0.9, 1), (B, 0.3, 0)], {"max_detections": 1}, [(A, 0.9, 1)]),
        ([([127.9, 60, 20, 10, 0.0], 0.9, 0)], {}, [([127.0, 60, 20, 10, 0.0], 0.9, 0)]),  # centres are held inside
    ],
    ids=["none", "one", "order", "suppressed", "other-class", "looser", "low", "lower-threshold", "limit", "clamped"],
)
def test_detect(said: Said, changes: dict[str, float], expected: Said) -> None:
    ((boxes, scores, labels),) = run(said, **changes)
    torch.testing.assert_close(boxes, torch.tensor([e[0] for e in expected]).reshape(-1, 5), atol=1e-4, rtol=1e-5)
    assert scores.tolist() == pytest.approx([e[1] for e in expected], abs=1e-6)
    assert labels.tolist() == [e[2] for e in expected]


def test_top_k_is_per_level() -> None:
    small, large = [[20.0 + 30 * i, 20, 12, 9, 0.1] for i in range(3)], [64.0, 80, 100, 70, 0.2]
    said = [(small[0], 0.9, 0), (small[1], 0.8, 0), (small[2], 0.7, 0), (large, 0.2, 0)]
    ((_, scores, _),) = run(said, top_k=2, iou_threshold=0.9)
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.2])


def test_images_of_a_batch_are_independent() -> None:
    images = [[(A, 0.9, 1)], [], [(NEAR_A, 0.8, 1), (B, 0.7, 0)]]
    sizes = [(128, 128), (64, 64), (96, 60)]
    for found, image, size in zip(run(*images, sizes=sizes), images, sizes, strict=True):
        (alone,) = run(image, sizes=[size])
        for x, y in zip(found, alone, strict=True):
            torch.testing.assert_close(x, y)
    assert run(*images, sizes=sizes)[2][0][:, 0].max() <= 59, "centres stay within their own image"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_detected(value: float) -> None:
    logits, deltas = maps([(A, 0.9, 1), (B, 0.8, 0)])
    for spoilt in range(len(deltas)):
        changed = [torch.full_like(x, value) if k == spoilt else x for k, x in enumerate(deltas)]
        [(boxes, scores, labels)] = detect(Raw(logits, changed), HEAD, [(SIDE, SIDE)], OPTIONS, 0.05, AT_LIMIT)
        assert boxes.isfinite().all()
        assert len(boxes) == len(scores) == len(labels)
        lost = sum(bool((x[0] > -10).any()) for x in logits[spoilt : spoilt + 1])
        assert len(boxes) <= 2 - lost


def test_no_images() -> None:
    assert detect(maps([]), HEAD, [], OPTIONS, 0.05, AT_LIMIT) == []
    assert detect_decoded([torch.zeros(2, 3, CLASSES)], torch.zeros(2, 3, 5), [], OPTIONS, 0.05, AT_LIMIT) == []


LONG, WIDER, THIN = [64.0, 64, 362, 40, 0.3], [64.0, 64, 363, 40, 0.3], [60.0, 60, 40, 0.5, 0.2]  # 2 x 128 x sqrt(2) = 362.04
# Of images of 128 pixels. Each box with whether it is none where absurd ones are dropped.
EXTREMES = [(A, False), (LONG, False), (WIDER, True), (THIN, False)]


def decoded(raw: Raw, sizes: list[tuple[int, int]]) -> tuple[list[Tensor], Tensor]:
    """What a network that decodes by itself gives: logits of each level, and all boxes with their centres inside."""
    boxes = HEAD.decode(raw)
    for one, (height, width) in zip(boxes, sizes, strict=True):
        one[:, :2] = torch.minimum(one[:, :2].clamp_min(0), torch.tensor([width - 1.0, height - 1.0]))
    return rows(raw.logits, CLASSES), boxes


def both_ways(raw: Raw, sizes: list[tuple[int, int]], **changes: float) -> list[Found]:
    """The detections of `detect`, which must be those of `detect_decoded`."""
    options = OPTIONS.model_copy(update=changes)
    found = detect(raw, HEAD, sizes, options, 0.05, AT_LIMIT)
    again = detect_decoded(*decoded(raw, sizes), sizes, options, 0.05, AT_LIMIT)
    for one, other in zip(found, again, strict=True):
        assert all(map(torch.equal, one, other))
    return found


@pytest.mark.parametrize(("box", "absurd"), EXTREMES, ids=["usual", "two diagonals", "longer", "thin"])
@pytest.mark.parametrize("drop", [True, False])
def test_boxes_longer_than_two_diagonals(box: list[float], absurd: bool, drop: bool) -> None:
    sizes = [(SIDE, SIDE)] * 2
    found = both_ways(maps([(box, 0.9, 1), (B, 0.8, 0)], [(B, 0.7, 0)]), sizes, drop_absurd=drop)
    assert [len(one[0]) for one in found] == [1 if drop and absurd else 2, 1]
    torch.testing.assert_close(found[0][0][-1], torch.tensor(B), atol=1e-3, rtol=0)


def test_the_diagonal_is_that_of_the_image_without_padding() -> None:
    raw, box = maps([(A, 0.9, 1)], [(A, 0.9, 1)]), A[2]
    side = int(box / 2 / math.sqrt(2))  # of a square whose doubled diagonal is just shorter than the box
    found = both_ways(raw, [(SIDE, SIDE), (side, side)], drop_absurd=True)
    assert [len(one[0]) for one in found] == [1, 0]


def clamped(anchor: int, **deltas: float) -> Raw:
    """Heads' outputs with two sure boxes: B, and one of an anchor of the finest level, whose deltas are these."""
    raw = maps([(B, 0.8, 0)])
    raw.logits[0][0, anchor * CLASSES + 1, 5, 5] = logit(0.9)
    for key, value in deltas.items():
        raw.geometry[0][0, 5 * anchor + ("dx", "dy", "dw", "dh", "da").index(key), 5, 5] = value
    return raw


@pytest.mark.parametrize("anchor", range(9))
@pytest.mark.parametrize(
    ("deltas", "at_limit"),
    [({"dh": -9.0}, True), ({"dw": -5.0}, True), ({"dw": -4.2, "dh": -4.2}, True), ({"dw": -4.1, "dh": 1.0}, False), ({}, False)],
    ids=str,
)
def test_boxes_at_the_clamp(anchor: int, deltas: dict[str, float], at_limit: bool) -> None:
    """Too short ones are no longer than any, and yet none: what the network wanted to say is unknown."""
    raw = clamped(anchor, **deltas)
    (dropped,), (kept,) = (both_ways(raw, [(SIDE, SIDE)], drop_absurd=drop) for drop in (True, False))
    assert (len(dropped[0]), len(kept[0])) == (1 if at_limit else 2, 2)


def test_an_absurd_box_suppresses_nothing() -> None:
    """It is dropped before NMS: a worse box nearly like it, but not at the clamp, is found in its stead."""
    raw = clamped(1, dw=-math.log(2) / 3, dh=-9.0)  # as wide as the anchor before it, 0.65 pixels high
    raw.logits[0][0, 1, 5, 5] = logit(0.7)
    raw.geometry[0][0, 3, 5, 5] = math.log(0.66 / 32)
    (dropped,), (kept,) = (both_ways(raw, [(SIDE, SIDE)], drop_absurd=drop) for drop in (True, False))
    assert kept[1].tolist() == pytest.approx([0.9, 0.8])
    assert dropped[1].tolist() == pytest.approx([0.8, 0.7])


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("values", [(0, 10), (10, 0), (0, 0), (-3, 10), (10, -3), (-3, -3), (math.nan, 5), (5, math.inf)], ids=str)
def test_boxes_without_area_are_none_for_any_family(values: tuple[float, float], drop: bool) -> None:
    """Decoders of other families may give sides of any sign."""
    boxes = torch.tensor([[[40.0, 40, *values, 0.1], B]])
    logits = [torch.tensor([[[3.0, -9.0], [2.0, -9.0]]])]
    options = OPTIONS.model_copy(update={"drop_absurd": drop})
    [(found, scores, labels)] = detect_decoded(
        logits, boxes, [(SIDE, SIDE)], options, 0.05, lambda boxes, _: torch.zeros(len(boxes), dtype=torch.bool)
    )
    torch.testing.assert_close(found, torch.tensor([B]))
    assert (len(scores), labels.tolist()) == (1, [0])
