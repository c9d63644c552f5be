"""An evaluation with its images, as reports take it."""

from pathlib import Path

import numpy as np
import pytest

from report_pages import grid_evidence
from rotanext.evaluation.metrics import Evidence
from rotanext.images.reading import write_png


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """Two images on disk."""
    paths = []
    for k in range(2):
        paths.append(tmp_path / f"p{k}.png")
        write_png(paths[-1], np.full((250, 250, 3), 90 + 60 * k, np.uint8))
    return grid_evidence(("plane", "ship", "harbor"), tuple(paths), ("p0", "p1"))
