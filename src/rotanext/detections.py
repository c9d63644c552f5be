"""What a detector returns for one image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotanext.boxes import boxes_to_corners


@dataclass(frozen=True)
class Detections:
    """Detections of one image or scene, best first.

    boxes `[N, 5]` float32 (le90, pixels of that image), scores `[N]` float32 in (0, 1], labels `[N]` int64 into class_names.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def corners(self) -> Tensor:
        """Corners `[N, 4, 2]`, clockwise on the screen."""
        return boxes_to_corners(self.boxes)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[i] for i in self.labels.tolist()]

    def above(self, score: float) -> "Detections":
        """Only the detections with a score of at least `score`."""
        return self.where(self.scores >= score)

    def where(self, keep: Tensor) -> "Detections":
        """Only those for which `keep` `[N]` bool says so."""
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], self.class_names)

    def scaled(self, factor: float) -> "Detections":
        """The same in the pixels of an image resized by `factor`."""
        boxes = torch.cat([self.boxes[:, :4] * factor, self.boxes[:, 4:]], 1)
        return Detections(boxes, self.scores, self.labels, self.class_names)

    def to_records(self) -> list[dict[str, object]]:
        """Plain data, ready for JSON: class, score, box and corners of each detection."""
        return [
            {"class": name, "score": score, "box": box, "corners": corners}
            for name, score, box, corners in zip(
                self.names, self.scores.tolist(), self.boxes.tolist(), self.corners.tolist(), strict=True
            )
        ]
