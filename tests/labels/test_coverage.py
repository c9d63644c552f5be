"""How well priors fit a set's objects, and the advice where they do not."""

import numpy as np
import pytest
import torch

from networks import small_config
from rotanext.config import load_config
from rotanext.labels import coverage
from rotanext.labels.coverage import advise, cover, needs_cutting
from rotanext.labels.dataset import LabelledImage, LabelSet, Shapes
from rotanext.polygons import boxes_to_corners


def labelled(boxes: list[list[float]], size: tuple[int, int], name: str = "ship") -> LabelledImage:
    shapes = Shapes()
    for place, box in enumerate(boxes):
        shapes.add(boxes_to_corners(box), name, place)
    return shapes.image("x.png", size)


def test_sound_objects_at_the_size_of_training() -> None:
    config = load_config("small")
    size = config.data.image_size
    image = labelled([[size, size / 2, 64, 32, 0.3], [9, 9, 8, 0, 0]], (2 * size, size))  # the second has no area
    crossed = Shapes()
    crossed.add(np.array([[0, 0], [9, 9], [9, 0], [0, 9.0]]), "ship", 1)
    found = cover(LabelSet([image, crossed.image("y.png", (size, size))]), config)
    torch.testing.assert_close(found.boxes, torch.tensor([[size / 2, size / 4, 32, 16, 0.3]]), atol=1e-3, rtol=0)
    assert (found.names, found.scales.tolist()) == (["ship"], [0.5])
    assert found.missed.tolist() == [found.reach.fit[0] < found.reach.least]
    whole = cover(LabelSet([image]), config, resized=False)
    torch.testing.assert_close(whole.boxes[:, 2:4], torch.tensor([[64.0, 32.0]]))
    assert whole.scales.tolist() == [1]


def test_slivers_are_missed_and_anchors_own_shapes_are_not() -> None:
    config = small_config("convnext_atto", "data.image_size=352")
    size = config.data.image_size
    side = 4.0 * config.neck.strides[1]  # an anchor of the second level
    found = cover(
        LabelSet([labelled([[size / 2, size / 2, side, side, 0], [size / 2, size / 2, 300, 1, 0]], (size, size))]), config
    )
    assert found.missed.tolist() == [False, True]


def test_of_very_many_objects_some_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "_MOST", 3)
    config = load_config("small")
    size = config.data.image_size
    images = [labelled([[50 + 10 * i, 50, 30, 20, 0]], (size, size), f"n{i}") for i in range(5)]
    found = cover(LabelSet(images), config)
    assert found.names == ["n0", "n2", "n4"]
    torch.testing.assert_close(found.boxes[:, 0], torch.tensor([50.0, 70, 90]), atol=1e-3, rtol=0)


def test_a_set_without_objects() -> None:
    config = load_config("small")
    data = LabelSet([labelled([], (9000, 9000))])
    found = cover(data, config)
    assert (found.boxes.shape, found.missed.shape) == ((0, 5), (0,))
    assert not needs_cutting(data, config, found)
    assert advise(data, config, found, cut=False) == ["There are no objects to judge tiles by."]


CUTS = (  # longest side of the image and short side of its objects, in parts of the recipe's image size and in pixels
    (1, 20, False),
    (1.5, 4, False),  # hardly larger
    (8, 20, True),  # 2.5 pixels once shrunk
    (8, 200, False),  # large enough even then
)


@pytest.mark.parametrize(("times", "short", "wanted"), CUTS)
def test_large_images_of_small_objects_need_cutting(times: float, short: float, wanted: bool) -> None:
    config = load_config("small")
    side = int(times * config.data.image_size)
    data = LabelSet([labelled([[side / 2, side / 2, 2 * short, short, 0.2]] * 5, (side, side))])
    assert needs_cutting(data, config, cover(data, config)) is wanted


def test_advice_names_a_size_of_tiles_that_holds_the_objects() -> None:
    config = load_config("small")
    side = config.data.image_size
    for long, size in ((100, side), (side, 1 << int(np.ceil(np.log2(1.5 * side))))):
        data = LabelSet([labelled([[4000, 4000, long, 20, 0.2]] * 5, (8000, 8000))])
        told = advise(data, config, cover(data, config, resized=False), cut=True)[0]
        assert f"The largest image is 8000 pixels long, the recipe works on {side}" in told
        assert f"--size {size} " in told
        assert f"at most {long} pixels long" in told


def test_advice_to_enlarge_small_objects() -> None:
    config = load_config("small")
    side = config.data.image_size
    for short, wanted in ((5.0, True), (7.0, False)):
        data = LabelSet([labelled([[50, 50, 20, short, 0.2]] * 5, (side, side))])
        assert any("enlarge" in line for line in advise(data, config, cover(data, config), cut=False)) is wanted
