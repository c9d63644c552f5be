"""Faults of single objects, images and classes."""

from pathlib import Path

import numpy as np
import pytest

from label_files import FAULTS, SOUND, one_image
from rotanext.images.reading import write_png
from rotanext.labels.check import check_labels
from rotanext.labels.dataset import LabelledImage, LabelSet, Shapes
from rotanext.labels.findings import KINDS, find_all, find_rare
from rotanext.polygons import upright


@pytest.mark.parametrize(("line", "kind"), FAULTS)
def test_faults_of_objects(line: str, kind: str | None, tmp_path: Path) -> None:
    found = check_labels(one_image(tmp_path, SOUND, line), class_names=("plane", "ship"))
    kinds = {finding.kind for finding in found.findings} - {"rare class"}
    assert kinds == ({kind} if kind else set())
    for finding in found.findings:
        if finding.kind == kind:
            assert finding.path.endswith("a.txt") or ":2" in finding.path
            assert finding.place == 2 or finding.path.endswith("a.txt:2")
    assert bool(found.problems) == bool(kind and KINDS[kind][0])


def test_images_and_labels_without_each_other(tmp_path: Path) -> None:
    root = one_image(tmp_path, SOUND)
    write_png(root / "images/b.png", np.zeros((8, 8, 3), np.uint8))
    (root / "labelTxt/c.txt").write_text(SOUND)
    counts = check_labels(root).counts
    assert counts["image without labels"] == counts["labels without image"] == 1


def labelled(*objects: tuple[str, np.ndarray], size: tuple[int, int] = (100, 80)) -> LabelledImage:
    shapes = Shapes()
    for place, (name, corners) in enumerate(objects, 1):
        shapes.add(corners, name, place)
    return shapes.image("x.png", size, Path("x.txt"), Path("x.png"))


def kinds_of(image: LabelledImage, class_names: tuple[str, ...] | None = None) -> list[str]:
    return [finding.kind for finding in find_all(LabelSet([image]), class_names)]


EDGES = (  # corners of an upright box in 100 x 80 pixels, and what is found
    ((0, 0), (100, 80), []),
    ((-0.5, 10), (20, 30), []),  # half a pixel of rounding
    ((-0.6, 10), (20, 30), ["beyond the edge"]),
    ((90, 70), (100.6, 79), ["beyond the edge"]),
    ((-20, 10), (-0.1, 30), ["outside the image"]),
    ((10, 80.1), (30, 99), ["outside the image"]),
    ((10, 10), (40, 12.9), ["tiny"]),
    ((10, 10), (40, 13), []),
)


@pytest.mark.parametrize(("low", "high", "kinds"), EDGES)
def test_edges_and_sizes(low: tuple[float, float], high: tuple[float, float], kinds: list[str]) -> None:
    corners = upright(np.array(low, float), np.array(high, float))
    assert kinds_of(labelled(("plane", corners))) == kinds
    expected = [] if "tiny" not in kinds else kinds
    assert kinds_of(labelled(("plane", corners), size=(0, 0))) == expected  # nobody knows where the image ends


def test_the_nearest_class_is_named() -> None:
    box = upright((10, 10), (40, 30))
    for name, text in (("plain", "plain: did you mean plane?"), ("xyz", "xyz: not in the list")):
        (finding,) = find_all(LabelSet([labelled((name, box))]), ("plane", "ship"))
        assert (finding.kind, finding.text, finding.place, finding.serious) == ("unknown class", text, 1, True)
    assert kinds_of(labelled(("plane", box)), ("plane", "ship")) == []


def test_each_pair_in_one_place_is_told_once_by_the_later_one() -> None:
    box = upright((10, 10), (40, 30))
    found = list(find_all(LabelSet([labelled(("a", box), ("a", box + 50), ("b", box), ("a", np.roll(box, 2, 0)))]), None))
    told = sorted((finding.place, finding.kind, finding.text) for finding in found if "edge" not in finding.kind)
    assert told == [
        (3, "two classes in one place", "b: that of line 1 is a a (IoU 1.00)"),
        (4, "duplicate", "a: that of line 1 again"),
        (4, "two classes in one place", "a: that of line 3 is a b (IoU 1.00)"),
    ]


def test_rare_classes_and_those_that_are_never_trained_on() -> None:
    box = upright((10, 10), (40, 30))
    train = LabelSet([labelled(*[("many", box)] * 20, *[("few", box)] * 19)], ["few", "many", "none"])
    val = LabelSet([labelled(("many", box), ("other", box))])
    assert [(f.kind, f.path, f.text) for f in find_rare(train, None)] == [("rare class", "few", "19 objects")]
    kinds = [(f.kind, f.path) for f in find_rare(train, val)]
    assert kinds == [("rare class", "few"), ("class without training", "other")]
