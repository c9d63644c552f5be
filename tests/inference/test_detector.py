"""The detector as a Python object: what it takes, tiles and their merging, devices."""

import inspect
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotanext.detections import Detections
from rotanext.errors import UserError
from rotanext.inference.detector import Detector, build_network
from rotanext.load import load_detector
from rotanext.models.fast import CompiledNetwork
from rotanext.system.devices import find_device
from tiny import tiny_config

CLASSES = ("plane", "ship")


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return load_detector(tiny_weights, "cpu")


def knowing(objects: np.ndarray, tile: int, overlap: int, **predict: Any) -> Detector:
    """A detector with tiles that "finds" these boxes `[N, 5]` of the scene wherever a crop shows their centre."""
    overrides = [
        f"predict.tile={tile}",
        f"predict.overlap={overlap}",
        "predict.image_size=0",
        *(f"predict.{k}={v}" for k, v in predict.items()),
    ]
    config = tiny_config(Path("unused"), None, *overrides)
    made = Detector(build_network(config, 2), config, CLASSES)

    def detect(crops: list[np.ndarray], threshold: float, fill: int) -> list[Detections]:
        results = []
        for crop in crops:
            height, width = crop.shape[:2]
            x, y = 256 * int(crop[0, 0, 0]) + int(crop[0, 0, 1]), 0  # the scene is one that tells its column
            centre = objects[:, :2] - (x, y)
            seen = ((centre >= 0) & (centre < (width, height))).all(1)
            boxes = torch.tensor(objects[seen], dtype=torch.float32)
            boxes[:, 0] -= x
            scores = 0.9 - 0.001 * torch.arange(len(boxes), dtype=torch.float32)
            results.append(Detections(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), CLASSES))
        return results

    made.detect_crops = detect  # type: ignore[method-assign]
    return made


def column_scene(width: int, height: int) -> np.ndarray:
    """An image in which every pixel holds its column, high and low byte."""
    columns = np.arange(width)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = columns // 256, columns % 256
    return image


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_scene_of_many_tiles_gives_each_object_once(batch_size: int) -> None:
    objects = np.array([[x, 30.0, 20, 8, 0.3] for x in range(15, 1000, 31)])
    detector = knowing(objects, tile=128, overlap=32)
    found = detector(column_scene(1000, 64), batch_size=batch_size)
    assert len(found) == len(objects)
    order = found.boxes[:, 0].argsort()
    torch.testing.assert_close(found.boxes[order].double(), torch.from_numpy(objects), rtol=0, atol=1e-4)
    assert (found.scores.diff() <= 0).all()


def test_without_merging_objects_would_come_twice() -> None:
    objects = np.array([[x, 30.0, 20, 8, 0.3] for x in range(15, 1000, 31)])
    assert len(knowing(objects, tile=128, overlap=32, merge_iou=1.0)(column_scene(1000, 64))) > len(objects)


def test_a_image_the_size_of_a_tile_is_one_tile(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[tuple[int, ...]]] = []
    plain = Detector.detect_crops

    def counting(self: Detector, crops: list[np.ndarray], threshold: float, fill: int) -> list[Detections]:
        calls.append([crop.shape for crop in crops])
        return plain(self, crops, threshold, fill)

    monkeypatch.setattr(Detector, "detect_crops", counting)
    whole = detector.reconfigured(image_size=0, tile=512)
    whole(np.zeros((512, 512, 3), np.uint8))
    assert calls == [[(512, 512, 3)]]
    calls.clear()
    whole(column_scene(513, 10), batch_size=2)
    assert calls == [[(10, 512, 3), (10, 512, 3)]]
    calls.clear()
    detector(np.zeros((100, 600, 3), np.uint8))  # the configuration says 64
    assert calls == [[(11, 64, 3)]]


def test_boxes_are_in_the_pixels_of_the_image_given(detector: Detector) -> None:
    small = np.full((32, 64, 3), 90, np.uint8)
    large = np.repeat(np.repeat(small, 4, 0), 4, 1)
    one, four = (detector(image, score_threshold=0.0) for image in (small, large))
    assert len(one) == len(four) > 0
    torch.testing.assert_close(four.boxes[:, :4], one.boxes[:, :4] * 4)
    torch.testing.assert_close(four.boxes[:, 4], one.boxes[:, 4])


def test_the_score_threshold(detector: Detector) -> None:
    image = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    everything = detector(image, score_threshold=0.0)
    middle = float(everything.scores.median())
    kept = detector(image, score_threshold=middle)
    assert 0 < len(kept) < len(everything)
    assert (kept.scores >= middle).all()
    assert len(detector(image, score_threshold=1.0)) == 0
    assert everything.boxes.dtype == everything.scores.dtype == torch.float32
    assert everything.labels.dtype == torch.int64
    assert everything.class_names == CLASSES


def test_absurd_boxes_go_where_the_configuration_says_so(tiny_weights: Path) -> None:
    """A head whose every box is at the clamp, or longer than any image, finds nothing."""
    image = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    for channel, value in ((2, 9.0), (3, -9.0), (2, math.nan)):
        spoilt = load_detector(tiny_weights, "cpu")
        with torch.no_grad():
            spoilt.model.head.reg_out.bias[channel::5] = value
        kept = spoilt.reconfigured(drop_absurd=False)(image, score_threshold=0.0)
        assert (len(kept) > 0) == math.isfinite(value)
        assert spoilt.config.predict.drop_absurd
        assert len(spoilt(image, score_threshold=0.0)) == 0


def test_it_keeps_no_state_and_changes_nothing(detector: Detector) -> None:
    image = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    copy = image.copy()
    detector.model.train()
    first = detector(image, score_threshold=0.0)
    assert detector.model.training
    detector(image[:10, :20], score_threshold=0.0)
    second = detector(image[::1], score_threshold=0.0)
    detector.model.eval()
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.scores, second.scores)
    assert (image == copy).all()
    detector(image[::-1, ::-1])  # negative strides are fine


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\]"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8 \[3, 8, 8\]"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \[8, 8, 3\]"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "Tensor"),
        ("image.png", "str"),
        (None, "NoneType"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
    ],
)
def test_what_is_no_image(image: Any, found: str, detector: Detector) -> None:
    with pytest.raises(UserError, match=found):
        detector(image)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"score_threshold": -0.1}, {"score_threshold": float("nan")}, {"score_threshold": 30}, {"image_size": -1}],
)
def test_options_that_make_no_sense(options: dict[str, Any], detector: Detector) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))} is .*expected"):
        detector(np.zeros((8, 8, 3), np.uint8), **options)


def test_the_number_of_names_is_that_of_the_model(detector: Detector) -> None:
    with pytest.raises(UserError, match="2 classes, but 3 class names"):
        Detector(detector.model, detector.config, ("a", "b", "c"))


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta", "cpu:x", "xla", "hpu"])
def test_a_device_that_does_not_exist(name: str) -> None:
    with pytest.raises(UserError, match=f"device '{name}' cannot be used: .*Use cpu, cuda") as caught:
        find_device(name)
    assert "\n" not in str(caught.value)


def test_devices_that_do() -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    assert "score_threshold" in inspect.signature(Detector.__call__).parameters


def test_a_compiled_network_sees_one_size_of_batch(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tiles of an image are filled up, since another size of batch would be compiled anew; the detections stay."""
    image = np.random.default_rng(0).integers(0, 255, (64, 160, 3), dtype=np.uint8)
    options = {"image_size": 0, "tile": 64, "overlap": 16, "score_threshold": 0.0}
    plain = detector.reconfigured(**options)
    filled = detector.reconfigured(**options)
    filled.compiled = True
    seen = []

    def network(batch: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        seen.append(len(batch))
        return plain.network(batch)

    made = CompiledNetwork(plain.model)
    made._compiled = network
    monkeypatch.setitem(vars(filled), "network", made)
    found, expected = filled(image, batch_size=2), plain(image, batch_size=2)
    assert seen == [2, 2]
    filled(image, batch_size=8)
    assert seen == [2, 2, 3]  # a single batch is not filled
    assert len(expected) > 10
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-4)


def test_a_detector_of_which_nothing_changes_is_the_same(detector: Detector) -> None:
    assert detector.reconfigured() is detector
    assert detector.reconfigured(tile=None, overlap=None) is detector
    assert detector.reconfigured(tile=512).config.predict.tile == 512
    with pytest.raises(UserError, match="tiel"):
        detector.reconfigured(tiel=128)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 2.5}, {"batch_size": "3"}, {"score_threshold": "0.3"}, {"image_size": float("nan")}, {"image_size": 2.5}],
)
def test_options_of_the_wrong_kind(detector: Detector, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        detector(np.zeros((8, 8, 3), np.uint8), **options)


def test_the_callers_defaults_do_not_matter(detector: Detector) -> None:
    """Another default type, also while its network is made, and an image that must not be written to."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    expected = detector(image, score_threshold=0.0)
    image.flags.writeable = False
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fresh = Detector(detector.model, detector.config, detector.class_names)
            found = fresh(image, score_threshold=0.0)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-4)
