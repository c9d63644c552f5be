"""What came of a prediction, in a line and as plain data."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rotanext.detections import Detections
from rotanext.errors import counted


@dataclass(frozen=True)
class Summary:
    """Counts: images, all objects, and those of each class with a score of at least `score`."""

    images: int
    objects: int
    score: float
    classes: Mapping[str, int]

    def text(self, target: str) -> str:
        """A line for the terminal; `target` is where the results are."""
        held = f"{counted(self.objects, 'object')} in {counted(self.images, 'image')}"
        sure = sum(self.classes.values())
        return f"{held}, {sure:,} with a score of at least {self.score}; results are in {target}"

    def to_json(self, target: str) -> dict[str, object]:
        """Plain data; `objects` are those with the score."""
        sure = sum(self.classes.values())
        return {"images": self.images, "objects": sure, "score": self.score, "classes": dict(self.classes), "out": target}


def summarise(found: Mapping[str, Detections], score: float) -> Summary:
    """Count the detections of each image; `score` is the lowest that counts as sure."""
    names = Counter(name for detections in found.values() for name in detections.above(score).names)
    return Summary(len(found), sum(map(len, found.values())), score, names)
