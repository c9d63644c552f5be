"""A detector whose scores are spread out, and a server of it for each file of tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rotanext.inference.detector import Detector
from serving import Server, spread_detector


@pytest.fixture(scope="session")
def detector(tiny_weights: Path) -> Detector:
    return spread_detector(tiny_weights)


@pytest.fixture(scope="module")
def server(detector: Detector) -> Iterator[Server]:
    with Server(detector) as running:
        yield running
