"""Dynamic assignment: the reference's figures, the rule by hand, and what is computed of a pair by its definition."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import places
from rotanext.ops import assign_dynamic, dynamic, rotated_iou
from scenes import Scene, golden_scene

GOLDEN = places.GOLDEN / "rtmdet-functions.npz"
NAMES = ["few", "crowded", "overlapping", "none", "tiny", "single"]


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("number", range(6), ids=NAMES)
def test_the_reference_scenes(number: int) -> None:
    figures = np.load(GOLDEN)
    assert figures["scene_names"].tolist() == NAMES
    scene, name = golden_scene(*figures["scene_args"][number].tolist()), NAMES[number]
    index, quality = assign_dynamic(*scene)
    expected, iou = torch.from_numpy(figures[f"scene_{name}_gt_inds"]).long(), torch.from_numpy(figures[f"scene_{name}_iou"])
    counts = (iou > 0) | (quality > 0)  # where costs are infinite or IoUs 0 the reference's choice is arbitrary, and without effect
    assert torch.equal(index[counts], expected[counts])
    torch.testing.assert_close(quality, iou, rtol=0, atol=1e-5)
    learnt = scene.labels[expected[expected > 0] - 1]
    assert learnt.tolist() == figures[f"scene_{name}_positive_labels"].tolist()
    assert (index.dtype, quality.dtype) == (torch.int64, torch.float32)


def test_points_inside_are_the_references() -> None:
    figures = np.load(GOLDEN)
    found = dynamic.inside(torch.from_numpy(figures["inside_points"]), torch.from_numpy(figures["inside_boxes"]))
    assert torch.equal(found, torch.from_numpy(figures["inside"]))


def test_the_cost_of_pairs_by_its_definition() -> None:
    """With a matrix of points, objects and classes, as the rule is written."""
    scene = golden_scene(3, 7, 64, 10, 40)
    iou = rotated_iou(scene.boxes, scene.objects)
    y = F.one_hot(scene.labels, 15) * iou[..., None].double()
    logits = scene.logits.double()[:, None].expand_as(y)
    entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    classification = (entropy * (y - logits.sigmoid()).square()).sum(-1)
    distance = torch.cdist(scene.points.double(), scene.objects[:, :2].double()) / scene.strides[:, None]
    expected = classification - 3 * torch.log(iou.double() + 1e-7) + 10 ** (distance - 3)
    found = dynamic.pair_costs(
        scene.points, scene.strides, dynamic.class_costs(scene.logits), scene.logits, scene.objects, scene.labels, iou
    )
    torch.testing.assert_close(found, expected.float(), rtol=2e-7, atol=0)


# By hand: one class, points in a row at stride 8, each predicts a box


def assigned(
    boxes: list[list[float]], objects: list[list[float]], logits: list[float] | None = None, stride: float = 8.0
) -> tuple[list[int], list[float]]:
    """Points at (0, 0), (8, 0), (16, 0), ..."""
    points = torch.tensor([[8.0 * k, 0.0] for k in range(len(boxes))]).reshape(-1, 2)
    scores = torch.tensor(logits or [0.0] * len(boxes)).reshape(-1, 1)
    index, quality = assign_dynamic(
        points,
        torch.full((len(boxes),), stride),
        torch.tensor(boxes).reshape(-1, 5),
        scores,
        torch.tensor(objects).reshape(-1, 5),
        torch.zeros(len(objects), dtype=torch.int64),
    )
    return index.tolist(), quality.tolist()


NAN, INF = math.nan, math.inf
BOX = [8.0, 0, 40, 10, 0]  # covers the points at -12 to 28
HALF = [8.0, 0, 20, 10, 0]  # IoU 1/2 with it
AWAY = [900.0, 900, 4, 4, 0]


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize(
    ("boxes", "objects", "expected"),
    [
        ([], [], []),
        ([BOX], [], [0]),
        ([BOX, BOX, BOX], [BOX], [1, 1, 1]),  # IoUs sum up to 3
        ([HALF, HALF, HALF], [BOX], [0, 1, 0]),  # to 1.5: the point nearest to the centre
        ([HALF, HALF, HALF], [[12.0, 0, 40, 10, 0]], [0, 1, 0]),  # two at equal distance: the first
        ([AWAY, AWAY, AWAY], [BOX], [0, 1, 0]),  # at least one, of whatever IoU
        ([BOX, BOX, BOX], [[8, 0, 4, 4, 0]], [0, 1, 0]),  # only candidates are taken
        ([BOX, BOX, BOX], [[8, 0, 16, 4, 0]], [0, 1, 0]),  # points on the edge are none
        ([BOX, BOX, BOX], [[8, 0, 16.04, 4, 0]], [0, 1, 0]),
        ([BOX, BOX, BOX], [BOX, BOX], [1, 1, 1]),  # of equal objects the first
        ([BOX, BOX, BOX], [BOX, [16, 0, 40, 10, 0]], [1, 1, 1]),
        ([HALF, BOX, HALF], [BOX, [16, 60, 9, 9, 0]], [1, 1, 2]),  # none inside the second, but it takes one, however dear
        ([BOX, [NAN, 0, 9, 9, 0], BOX], [BOX], [1, 0, 1]),
        ([BOX, [8, 0, INF, 9, 0], BOX], [BOX], [1, 0, 1]),
        ([BOX, [8, 0, -40, 10, 0], BOX], [BOX], [1, 0, 1]),  # negative sides count as 0.001
        ([BOX, BOX], [[NAN, 0, 9, 9, 0]], [0, 0]),
        ([BOX, BOX], [[0, 0, 0, 0, 0]], [0, 0]),  # no point inside
    ],
    ids=[
        "nothing", "no-objects", "three", "one", "tie", "least", "candidates", "edge", "near-edge", "twice", "shared", "outside",
        "nan", "endless", "negative", "no-object", "point",
    ],
)  # fmt: skip
def test_rule(boxes: list[list[float]], objects: list[list[float]], expected: list[int]) -> None:
    index, quality = assigned(boxes, objects)
    assert index == expected
    assert all(q == 0 for i, q in zip(index, quality, strict=True) if i == 0)


@pytest.mark.usefixtures("each_implementation")
def test_a_contested_point_goes_to_the_cheapest_of_all() -> None:
    """Even to an object that did not take it: the third wants one point, and of two equally cheap ones takes the first."""
    tall, third = [8.0, 0, 16, 40, 0], [4.0, 0, 20, 10, 0]
    boxes = [[0.0, 0, 10, 10, 0], [8.0, 0, 10, 10, 0]]
    assert assigned(boxes, [third])[0] == [1, 0]
    assert assigned(boxes, [tall])[0] == [0, 1]
    assert assigned(boxes, [tall, third])[0] == [2, 1]
    assert assigned(boxes, [tall, tall, third])[0] == [3, 3]


@pytest.mark.usefixtures("each_implementation")
def test_pairs_of_infinite_cost_are_not_taken() -> None:
    far = [8.0 + 8 * 60, 0, 1, 1, 0]
    assert assigned([BOX, BOX, BOX], [BOX, far])[0] == [1, 1, 1]
    alone = [*BOX[:2], 10.0, 10.0, 0.0]
    assert assigned([BOX, BOX, BOX], [far, alone])[0] == [0, 2, 0]
    assert assigned([BOX, BOX, BOX], [BOX], [0.0, NAN, 0.0])[0] == [1, 0, 1]
    assert assigned([BOX, BOX, BOX], [BOX], [0.0, INF, -INF])[0][0] == 1


ARGUMENTS = golden_scene(3, 7, 64, 10, 40)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": ARGUMENTS.points[1:]}, r"points must be \[84, 2\]; found \[83, 2\]"),
        ({"strides": ARGUMENTS.strides[:, None]}, r"strides must be \[84\]; found \[84, 1\]"),
        ({"boxes": ARGUMENTS.boxes[:, :4]}, r"boxes must be a tensor \[N, 5\]"),
        ({"logits": ARGUMENTS.logits[1:]}, r"logits must be \[84, classes\]; found \[83, 15\]"),
        ({"objects": ARGUMENTS.objects[0]}, r"objects must be a tensor \[N, 5\]"),
        ({"labels": ARGUMENTS.labels[1:]}, r"labels must be \[7\]; found \[6\]"),
        ({"labels": torch.arange(9, 16)}, "labels are 9 to 15; expected 0 to 14"),
        ({"labels": torch.arange(-1, 6)}, "labels are -1 to 5; expected 0 to 14"),
    ],
)
def test_other_shapes_and_labels_are_refused(changed: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign_dynamic(*ARGUMENTS._replace(**changed))


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("change", [Tensor.bfloat16, Tensor.half, Tensor.double], ids=["bfloat16", "half", "double"])
def test_other_types(change: Callable[[Tensor], Tensor]) -> None:
    numbers = [change(values) for values in ARGUMENTS[:5]]
    found = assign_dynamic(*numbers, ARGUMENTS.labels)
    expected = assign_dynamic(*(values.float() for values in numbers), ARGUMENTS.labels)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[1].dtype == torch.float32


def test_nothing_is_differentiated() -> None:
    scene = Scene(*ARGUMENTS)
    scene = scene._replace(boxes=scene.boxes.clone().requires_grad_(), logits=scene.logits.clone().requires_grad_())
    assert not assign_dynamic(*scene)[1].requires_grad
