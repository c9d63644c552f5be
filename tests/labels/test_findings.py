"""Faults of single objects, images and classes."""

from pathlib import Path

import numpy as np
import pytest

from label_files import FAULTS, SOUND, one_image
from rotanext.images.reading import write_png
from rotanext.labels.check import check_labels
from rotanext.labels.findings import KINDS


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
