"""The graph that is exported, before any format: what it computes."""

import logging
import warnings

import numpy as np
import pytest
import torch

from exported import image
from networks import FAMILIES
from rotanext.export.graph import DecodedNetwork, quiet
from rotanext.heads.contract import rows
from rotanext.inference.detector import Detector

every_family = pytest.mark.parametrize("detector", FAMILIES, indirect=True, scope="module")


@every_family
def test_graph_keeps_centres_inside_where_the_head_says_so(detector: Detector) -> None:
    boxes = DecodedNetwork(detector.model)(torch.from_numpy(image(50, 90))[None])[1].detach()
    inside = (boxes[..., :2] >= 0) & (boxes[..., :2] <= torch.tensor([89, 49]))
    assert bool(inside.all()) == detector.model.head.centres_inside


@every_family
@pytest.mark.parametrize("size", [(64, 96), (50, 90), (1, 1)])
def test_the_graph_is_normalisation_network_and_decoding(detector: Detector, size: tuple[int, int]) -> None:
    pixels = torch.from_numpy(image(*size))
    with torch.no_grad():
        logits, boxes = DecodedNetwork(detector.model)(pixels[None])
        raw = detector.model(detector.model.prepare([pixels]))
        decoded = detector.model.head.decode(raw)
    torch.testing.assert_close(logits, torch.cat(rows(raw.logits, 2), 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes[..., 2:], decoded[..., 2:], rtol=1e-4, atol=1e-4)
    inside = ((decoded[..., :2] >= 0) & (decoded[..., :2] <= torch.tensor([size[1], size[0]]) - 1)).all(-1)
    torch.testing.assert_close(boxes[inside][:, :2], decoded[inside][:, :2], rtol=1e-4, atol=1e-3)


@every_family
def test_images_of_a_batch_do_not_touch_each_other(detector: Detector) -> None:
    network, both = DecodedNetwork(detector.model), torch.from_numpy(np.stack([image(40, 60), image(40, 60)[::-1]]))
    with torch.no_grad():
        for one, alone in zip(network(both), network(both[1:]), strict=True):
            torch.testing.assert_close(one[1:], alone, rtol=1e-4, atol=1e-3)


@every_family
def test_half_precision_computes_in_it_and_gives_float32(detector: Detector) -> None:
    network = DecodedNetwork(detector.model, "fp16")
    assert {value.dtype for value in network.network.backbone.parameters()} == {torch.float16}
    assert network.mean.dtype == torch.float32
    assert next(detector.model.parameters()).dtype == torch.float32, "the detector's own network is left as it is"


def test_exporters_are_quiet_only_within() -> None:
    log, before = logging.getLogger("torch.onnx"), logging.root.manager.disable

    def export() -> None:
        with quiet():
            assert not log.isEnabledFor(logging.WARNING)
            warnings.warn("nothing", stacklevel=1)
            raise KeyError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError):
            export()
        with pytest.raises(UserWarning):
            warnings.warn("something", stacklevel=1)
    assert logging.root.manager.disable == before
