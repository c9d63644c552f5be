"""What a detector returns: names and corners of its rows, parts of it, other scales, plain data."""

import json
import math

import pytest
import torch

from rotanext.detections import Detections

FOUND = Detections(
    torch.tensor([[50.0, 40, 20, 10, 0.5], [30, 30, 12, 12, -math.pi / 2], [10, 20, 30, 4, 0]]),
    torch.tensor([0.9, 0.5, 0.25]),
    torch.tensor([1, 0, 1]),
    ("plane", "ship"),
)
NONE = Detections(torch.zeros(0, 5), torch.zeros(0), torch.zeros(0, dtype=torch.int64), ("plane", "ship"))


def test_names_are_those_of_the_labels() -> None:
    assert FOUND.names == ["ship", "plane", "ship"]
    assert (len(FOUND), len(NONE), NONE.names) == (3, 0, [])


def test_corners_go_clockwise_from_the_boxs_own_top_left() -> None:
    assert FOUND.corners[2].tolist() == [[-5, 18], [25, 18], [25, 22], [-5, 22]]
    assert NONE.corners.shape == (0, 4, 2)


@pytest.mark.parametrize(("score", "kept"), [(0.0, 3), (0.5, 2), (0.51, 1), (1.0, 0)])
def test_the_lowest_score_counts_itself(score: float, kept: int) -> None:
    assert FOUND.above(score).scores.tolist() == FOUND.scores[:kept].tolist()


def test_a_part_keeps_rows_together_and_the_order() -> None:
    part = FOUND.where(torch.tensor([True, False, True]))
    assert torch.equal(part.boxes, FOUND.boxes[[0, 2]])
    assert part.scores.tolist() == [pytest.approx(0.9), 0.25]
    assert part.names == ["ship", "ship"]
    assert part.class_names == FOUND.class_names


def test_another_scale_moves_and_resizes_but_does_not_turn() -> None:
    half = FOUND.scaled(0.5)
    torch.testing.assert_close(half.corners, FOUND.corners / 2)
    assert torch.equal(half.boxes[:, 4], FOUND.boxes[:, 4])
    assert torch.equal(half.scores, FOUND.scores)


def test_records_are_json_with_full_precision() -> None:
    records = json.loads(json.dumps(FOUND.to_records()))
    assert [record["class"] for record in records] == FOUND.names
    for record, box, score, corners in zip(records, FOUND.boxes, FOUND.scores, FOUND.corners, strict=True):
        assert torch.equal(torch.tensor(record["box"]), box)
        assert torch.tensor(record["score"]) == score
        assert torch.equal(torch.tensor(record["corners"]), corners)
    assert NONE.to_records() == []
