"""What is said of a prediction."""

import torch

from rotanext.detections import Detections
from rotanext.inference.summary import summarise


def test_all_are_counted_and_the_sure_ones_by_class() -> None:
    boxes = torch.tensor([[10.0, 10.0, 8.0, 4.0, 0.0]]).repeat(3, 1)
    first = Detections(boxes, torch.tensor([0.9, 0.4, 0.1]), torch.tensor([0, 1, 1]), ("plane", "ship"))
    nothing = Detections(boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.long), ("plane", "ship"))
    summary = summarise({"a": first, "b": nothing}, 0.3)
    assert summary.text("out") == "3 objects in 2 images, 2 with a score of at least 0.3; results are in out"
    assert summary.to_json("out") == {
        "images": 2, "objects": 2, "score": 0.3, "classes": {"plane": 1, "ship": 1}, "out": "out",
    }  # fmt: skip
