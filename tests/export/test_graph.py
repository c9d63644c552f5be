"""The graph that is exported, before any format: what it computes."""

import torch

from exported import image
from rotanext.export.graph import DecodedNetwork
from rotanext.inference.detector import Detector


def test_graph_keeps_centres_inside_as_the_detector_does(detector: Detector) -> None:
    boxes = DecodedNetwork(detector.model)(torch.from_numpy(image(50, 90))[None])[1].detach()
    assert boxes[..., 0].min() >= 0
    assert boxes[..., 0].max() <= 89
    assert boxes[..., 1].max() <= 49
