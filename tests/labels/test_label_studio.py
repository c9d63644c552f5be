"""Label Studio."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from label_files import assert_means, assert_refused
from rotanext.errors import Problems
from rotanext.labels.convert import FORMATS

# Files as the tool itself writes them, and the corners of the dog in them.
FOREIGN = (
    (
        "export.json",
        (
            '[{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-x.png"}, "annotations": [{"result": [{"original_width": 100, '
            '"original_height": 80, "value": {"x": 50, "y": 25, "width": 20, "height": 25, "rotation": 90, '
            '"rectanglelabels": ["dog"]}, "type": "rectanglelabels"}, {"type": "choices", "value": {"choices": ["good"]}}]}]}]'
        ),
        [[50, 20], [50, 40], [30, 40], [30, 20]],
    ),
    (
        "min.json",
        (
            '[{"image": "s3://bucket/x.png", "id": 1, "label": [{"x": 10, "y": 25, "width": 40, "height": 50, "rotation": 0, '
            '"rectanglelabels": ["dog"], "original_width": 100, "original_height": 80}]}]'
        ),
        [[10, 20], [50, 20], [50, 60], [10, 60]],
    ),
)


@pytest.mark.parametrize(("name", "text", "corners"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_files_of_the_tool_itself(name: str, text: str, corners: list, tmp_path: Path) -> None:
    assert_means("label-studio", name, text, corners, tmp_path)


def test_refused(tmp_path: Path, cli: Callable) -> None:
    assert_refused("label-studio", "x.json", "[1]", "no labelled image", tmp_path, cli)


def test_label_studio_scores(tmp_path: Path) -> None:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["ship"]}
    rows = [{"type": "rectanglelabels", "value": value, "original_width": 100, "original_height": 80} for _ in range(3)]
    rows[0]["score"], rows[1]["score"] = 0.9, 0.0
    task = {"data": {"image": "a.png"}, "predictions": [{"score": 0.0, "result": rows}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task, {"data": {"image": "b.png"}, "annotations": [{"result": rows}]}]))
    found = FORMATS["label-studio"].read(tmp_path / "tasks.json", None, Problems(strict=True)).images
    np.testing.assert_array_equal(found[0].scores, [0.9, 0.0, 0.0])
    np.testing.assert_array_equal(found[1].scores, [0.9, 0.0, np.nan])
