"""Crops: the right part of the right image, the boxes where they belong, whatever is asked for."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from rotanext.evaluation.metrics import Evidence, Predictions, Truths
from rotanext.images.drawing import class_colour, draw_objects, draw_outline
from rotanext.images.reading import write_png
from rotanext.objects import Objects
from rotanext.reports import crops, labels
from rotanext.reports.crops import Wanted, cut_crops, cut_window, draw_case
from rotanext.reports.labels import draw_sample, draw_shot


def test_crops_show_the_boxes(evidence: Evidence) -> None:
    wanted = [Wanted(k, evidence.truths.corners[36 * k], detection=36 * k, truth=36 * k) for k in range(2)]
    found = cut_crops(evidence, wanted, 0.3)
    assert sorted(found) == [0, 1]
    for k, uri in found.items():
        data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
        assert image.shape == (264, 264, 3)
        assert abs(image[140:160, 125:140].mean() - (90 + 60 * k)) < 40  # the right image
        for colour in (crops.TRUTH, crops.DETECTION):
            assert (np.abs(image - colour).sum(-1) < 90).sum() > 100


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4, 1e8])
@pytest.mark.parametrize("shift", [-1e6, 0, 1e6])
def test_boxes_of_any_size_and_place(scale: float, shift: float, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    write_png(path, np.zeros((40, 60, 3), np.uint8))
    box = np.array([[0, 0], [1, 0], [1, 0.5], [0, 0.5]]) * scale + shift
    of = Evidence(("a",), Predictions.of_images([([box], [0.9], [0])]), Truths.of_images([([], [], [])]), ("p",), (path,), UNKNOWN)
    assert list(cut_crops(of, [Wanted(0, box, 0)], 0.3)) == [0]


UNKNOWN = np.full((1, 2), np.nan)  # sizes of images
POLYGON = np.array([[20.25, 31.5], [70.0, 12.75], [80.5, 40.0], [30.0, 61.125]])


@pytest.mark.parametrize("scale", [1, 2])
def test_all_who_draw_put_a_polygon_on_the_same_pixels(scale: int) -> None:
    """Predictions and labels, crops of cases, shots of findings, samples of label sets: as `draw_outline` does, pixel for pixel."""
    ground = 120
    nothing = Predictions.of_images([([], [], [])])

    def as_drawn(shape: tuple[int, ...], at: np.ndarray, colour: tuple[int, int, int], width: int, halo: int) -> np.ndarray:
        canvas = np.full(shape, ground, np.uint8)
        draw_outline(canvas, at, colour, width, halo=halo)
        assert (canvas != ground).sum() > 300
        return canvas

    # images with the objects drawn on them: lines of one pixel, and no seam, on small ones
    image = np.full((100 * scale, 110 * scale, 3), ground, np.uint8)
    drawn = draw_objects(image, Objects(POLYGON[None] * scale, ["a"], np.array([0])), ("a",), legend=False)
    np.testing.assert_array_equal(drawn, as_drawn(image.shape, POLYGON * scale, class_colour(0), 1, 0))

    # samples of label sets: 440 pixels wide
    image = np.full((300 // scale, 440 // scale, 3), ground, np.uint8)
    drawn = draw_sample(image, POLYGON[None])
    assert drawn.shape[1] == 440
    np.testing.assert_array_equal(drawn, as_drawn(drawn.shape, POLYGON * scale, labels.OUTLINE, 2, 1))

    # crops of cases, their window so large that it is shown at this scale
    size = crops.SIDE / scale
    polygon = POLYGON * (0.9999 * size / 2.4 / 60.25) + 200  # it is 60.25 wide
    image = np.full((700, 700, 3), ground, np.uint8)
    truths = Truths.of_images([(polygon[None], [0], [0])])
    drawn = draw_case(image, Evidence(("a",), nothing, truths, ("p",), (None,), UNKNOWN), Wanted(0, polygon, truth=0), 0.3)
    _, found, corner = cut_window(image, polygon)
    assert found == scale
    np.testing.assert_array_equal(drawn, as_drawn(drawn.shape, (polygon - corner) * scale, crops.TRUTH, 3, 1))

    # shots of findings
    polygon = POLYGON * (0.9999 * 220 / scale / 1.6 / 60.25) + 200
    drawn = draw_shot(image, polygon)
    _, found, corner = cut_window(image, polygon, 220, 1.6, 40)
    assert found == scale
    np.testing.assert_array_equal(drawn, as_drawn(drawn.shape, (polygon - corner) * scale, labels.OUTLINE, 2, 1))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("who", ["case", "shot", "sample"])
def test_outlines_lie_on_the_edges_of_what_the_image_shows(who: str, scale: int) -> None:
    """A white square on black, and its label: a line's middle is where black becomes white, to a tenth of a pixel."""
    square = np.array([[100, 90], [150, 90], [150, 140], [100, 140]], float)
    side = {"case": 264, "shot": 220, "sample": 440}[who]
    context = 0.9999 * side / scale / 50
    image = np.zeros((440 // scale if who == "sample" else 600,) * 2 + (3,), np.uint8)
    image[90:140, 100:150] = 255
    if who == "sample":
        plain, start = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), np.zeros(2)
    else:
        plain, found, start = cut_window(image, square, side, context, 40)
        assert found == scale
    drawn = np.zeros_like(plain)
    draw_outline(drawn, (square - start) * scale, (255, 255, 255), 1)
    row = round((115 - start[1]) * scale)
    for left in (100, 150):
        at = round((left - start[0]) * scale)
        near = slice(at - 6, at + 6)
        step = np.abs(np.diff(plain[row, at - 6 : at + 7, 0].astype(float)))
        edge = float((step * (np.arange(at - 6, at + 6) + 1)).sum() / step.sum())
        lit = drawn[row, near, 0].astype(float)
        line = float((lit * (np.arange(at - 6, at + 6) + 0.5)).sum() / lit.sum())
        assert abs(line - edge) < 0.1
