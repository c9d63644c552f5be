"""What is wrong, or worth a look, in labelled images: objects one by one, images, classes, and training against validation."""

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rotanext.errors import counted
from rotanext.labels.dataset import LabelledImage, LabelSet
from rotanext.objects import LEAST_AREA
from rotanext.ops import overlapping_polygons
from rotanext.polygons import corner_distance, corners_to_boxes, crosses, signed_area

# kind: (whether it is a problem, else a notice; what it means and what to do)
KINDS: dict[str, tuple[bool, str]] = {
    "invalid label": (True, "A line or item that is no label; it would be skipped. Correct or remove it."),
    "no area": (True, "Corners that enclose no area: nothing to learn. Remove or draw again."),
    "crossed corners": (
        True,
        "The outline crosses itself: the corners are in the wrong order (left-right, left-right). Sort them.",
    ),
    "outside the image": (
        True,
        "No part of the object is in its image: the label of another image, or of another size of it.",
    ),
    "duplicate": (True, "The same object twice. Remove one."),
    "unknown class": (True, "A name that is not in the list of classes. Correct the name or the list."),
    "image without labels": (True, "No label file: it is left out. Add an empty one if there is nothing in the image."),
    "labels without image": (True, "A label file whose image is missing or unreadable."),
    "unreadable image": (True, "It cannot be decoded: training would leave it out. Get it again, or remove it."),
    "same scene in training and validation": (True, "Tiles or copies of one image on both sides: scores would be too good."),
    "same image in training and validation": (True, "Identical files on both sides: scores would be too good."),
    "copy of an image in training and validation": (
        True,
        "Saved anew (another format, quality, size), or the next shot of a still scene: scores would be too good.",
    ),
    "same name in training and validation": (False, "Other images of the same name. Fine, unless both are parts of one scene."),
    "nearly a duplicate": (False, "Two objects of one class that cover the same place (IoU above 0.9)."),
    "two classes in one place": (False, "Two objects of different classes that cover the same place (IoU above 0.9)."),
    "no rectangle": (False, "Training uses the rectangle of least area around it; it differs by more than 15 % of the area."),
    "beyond the edge": (
        False,
        "Part of the object lies outside the image. That is fine here; some other tools drop such images.",
    ),
    "tiny": (False, "The short side is less than 3 pixels: hardly to be learnt at this resolution."),
    "counter-clockwise": (False, "The corners run the other way round than in DOTA. That is fine here; some other tools mind."),
    "rare class": (False, "Fewer than 20 objects to train on."),
    "class without training": (False, "It is in the validation data, but nowhere in the training data."),
    "same image twice": (False, "Identical files under two names in one data set."),
    "copy of an image": (False, "Saved anew (another format, quality, size), or the next shot of a still scene."),
}
_EXACT, _TINY, _ODD_SHAPE, _SAME, _RARE = 1e-3, 3.0, 0.15, 0.9, 20


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing found: its kind (of KINDS), where, and the image and corners `[4, 2]` to show it with, if any."""

    kind: str
    path: str
    place: int | None
    text: str
    image: LabelledImage | None = None
    corners: np.ndarray | None = None

    @property
    def serious(self) -> bool:
        """Whether it is a problem, not a notice."""
        return KINDS[self.kind][0]


def find_all(data: LabelSet, class_names: Sequence[str] | None) -> Iterator[Finding]:
    """Everything about single images and objects of one data set."""
    for path in data.unlabelled:
        yield Finding("image without labels", str(path), None, "no label file")
    for image in data.images:
        if image.file is None:  # one that cannot be read is told by whoever tried
            where = image.label or image.name
            yield Finding(
                "labels without image", str(where), None, f"{counted(len(image.objects), 'object')}, no image {image.name}"
            )
        yield from _of_objects(image, class_names)


def _of_objects(image: LabelledImage, class_names: Sequence[str] | None) -> Iterator[Finding]:
    corners, names = image.objects.corners, image.objects.names

    def tell(at: int, kind: str, text: str) -> Finding:
        where = str(image.label or image.name)
        return Finding(kind, where, image.places[at], f"{names[at]}: {text}", image, corners[at])

    if not len(corners):
        return
    area, crossed = signed_area(corners), crosses(corners)
    sides = corners_to_boxes(corners)[:, 2:4]
    least = sides.prod(1)
    low, high = corners.min(1), corners.max(1)
    size = np.array([image.width, image.height])
    outside = ((high < 0) | (low > size)).any(1) & (image.width > 0)
    beyond = ((low < -0.5) | (high > size + 0.5)).any(1) & (image.width > 0) & ~outside
    known = None if class_names is None else set(class_names)
    for at in range(len(corners)):
        if known is not None and names[at] not in known:
            near = difflib.get_close_matches(names[at], known, 1)
            yield tell(at, "unknown class", f"did you mean {near[0]}?" if near else "not in the list")
        if crossed[at]:
            yield tell(at, "crossed corners", "the outline crosses itself")
            continue
        if abs(area[at]) < LEAST_AREA:
            yield tell(at, "no area", f"{sides[at, 0]:.1f} x {sides[at, 1]:.2g} pixels")
            continue
        if outside[at]:
            span = f"x {low[at, 0]:.0f}..{high[at, 0]:.0f}, y {low[at, 1]:.0f}..{high[at, 1]:.0f}"
            yield tell(at, "outside the image", f"{span} of {size[0]} x {size[1]}")
        if beyond[at]:
            over = max(-low[at].min(), (high[at] - size).max())
            yield tell(at, "beyond the edge", f"by {over:.1f} pixels")
        if area[at] < 0:
            yield tell(at, "counter-clockwise", "corners run counter-clockwise")
        if abs(area[at]) < (1 - _ODD_SHAPE) * least[at]:
            yield tell(at, "no rectangle", f"fills {100 * abs(area[at]) / least[at]:.0f} % of its rectangle")
        if sides[at, 1] < _TINY:
            yield tell(at, "tiny", f"{sides[at, 0]:.1f} x {sides[at, 1]:.1f} pixels")
    whole = np.flatnonzero(~crossed & (np.abs(area) >= LEAST_AREA))
    yield from _alike(image, whole, tell)


def _alike(image: LabelledImage, whole: np.ndarray, tell) -> Iterator[Finding]:  # type: ignore[no-untyped-def]
    corners, names = image.objects.corners[whole], image.objects.names
    first, second, iou = overlapping_polygons(corners, corners, _SAME)
    for i, j, value in zip(first.tolist(), second.tolist(), iou.tolist(), strict=True):
        if i >= j:
            continue
        a, b = int(whole[i]), int(whole[j])
        other = f"that of {'line' if image.label and image.label.suffix == '.txt' else 'item'} {image.places[a]}"
        if names[a] != names[b]:
            yield tell(b, "two classes in one place", f"{other} is a {names[a]} (IoU {value:.2f})")
        elif corner_distance(image.objects.corners[[a]], image.objects.corners[[b]])[0] < _EXACT:
            yield tell(b, "duplicate", f"{other} again")
        else:
            yield tell(b, "nearly a duplicate", f"{other}, IoU {value:.2f}")


def find_rare(data: LabelSet, val: LabelSet | None) -> Iterator[Finding]:
    """Classes with few objects to train on, or none."""
    counts = Counter(name for image in data.images for name in image.objects.names)
    for name in data.class_names:
        if 0 < counts[name] < _RARE:
            yield Finding("rare class", name, None, counted(counts[name], "object"))
    for name in sorted({n for p in val.images for n in p.objects.names} - counts.keys()) if val else []:
        yield Finding("class without training", name, None, "no object in the training data")
