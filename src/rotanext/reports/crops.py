"""Small images of single detections and objects, with the boxes about them: JPEG data for a page."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from rotanext.errors import UserError
from rotanext.evaluation.metrics import Evidence
from rotanext.evaluation.scores import Floats
from rotanext.images.reading import FILL
from rotanext.images.scenes import read_pixels

TRUTH, DETECTION = (46, 204, 113), (255, 140, 26)  # RGB
_DARK = (16, 18, 22)
_SIDE = 264  # pixels of a crop
_CONTEXT = 2.4  # side of the window, in the longest extents of the box
_LEAST = 72.0  # pixels of the image that a window shows at least
_QUALITY = 84
_SHIFT = 4


@dataclass(frozen=True, eq=False)
class Wanted:
    """One crop: the image's index, the corners `[K, 2]` that it must show, and which detection and object it is about.

    detection, truth: rows of predictions and truths, -1 for none; they are drawn thick, others of that neighbourhood thin.
    """

    image: int
    corners: Floats
    detection: int = -1
    truth: int = -1


def cut_crops(evidence: Evidence, wanted: Iterable[Wanted], score: float) -> dict[int, str]:
    """JPEG data URIs of the crops that could be made, by their place in `wanted`.

    Truth is green, detections (of at least that score, and the one it is about) are orange. Every image is read once and let go
    of before the next; crops of images that are not there or cannot be read are left out.
    """
    by_image: dict[int, list[tuple[int, Wanted]]] = {}
    for place, item in enumerate(wanted):
        by_image.setdefault(item.image, []).append((place, item))
    return {place: uri for image, items in by_image.items() for place, uri in _crops_of(evidence, image, items, score)}


def _crops_of(evidence: Evidence, index: int, items: list[tuple[int, Wanted]], score: float) -> Iterator[tuple[int, str]]:
    path = evidence.images[index]
    if path is None:
        return
    try:
        image = read_pixels(path)
    except UserError:
        return
    predictions, truths = evidence.predictions, evidence.truths
    here, objects = np.flatnonzero(predictions.images == index), np.flatnonzero(truths.images == index)
    for place, item in items:
        shown = here[(predictions.scores[here] >= score) | (here == item.detection)]
        canvas, scale, corner = _window(image, item.corners)
        for row in objects[objects != item.truth]:
            _outline(canvas, (truths.corners[row] - corner) * scale, TRUTH, 1, dashed=bool(truths.difficult[row]))
        for row in shown[shown != item.detection]:
            _outline(canvas, (predictions.corners[row] - corner) * scale, DETECTION, 1)
        if item.truth >= 0:
            _outline(canvas, (truths.corners[item.truth] - corner) * scale, TRUTH, 3)
        if item.detection >= 0:
            _outline(canvas, (predictions.corners[item.detection] - corner) * scale, DETECTION, 3)
        ok, data = cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
        if ok:
            yield place, "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _window(image: np.ndarray, corners: Floats) -> tuple[np.ndarray, float, Floats]:
    """A square around the corners as `[_SIDE, _SIDE, 3]`, what lies outside the image filled; its scale and top-left corner."""
    low, high = corners.min(0), corners.max(0)
    # a detection may be larger than its image, by any factor
    extent = min(max(_CONTEXT * float((high - low).max()), _LEAST), 2.0 * max(image.shape[:2]))
    extent = float(np.ceil(extent))
    start = np.floor((low + high) / 2 - extent / 2)
    left, top = (int(np.clip(value, -1e7, 1e7)) for value in start)
    size = int(extent)
    scale = _SIDE / size
    canvas = np.full((_SIDE, _SIDE, 3), FILL, np.uint8)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + size, image.shape[1]), min(top + size, image.shape[0])
    if x0 < x1 and y0 < y1:
        # Where the part of the image comes to lie; it alone is resized, as a window may be larger than the image.
        u0, v0 = (min(round((value - start) * scale), _SIDE - 1) for value, start in ((x0, left), (y0, top)))
        u1, v1 = (max(round((value - start) * scale), low + 1) for value, start, low in ((x1, left, u0), (y1, top, v0)))
        how = cv2.INTER_AREA if size > _SIDE else cv2.INTER_CUBIC
        canvas[v0:v1, u0:u1] = cv2.resize(image[y0:y1, x0:x1], (u1 - u0, v1 - v0), interpolation=how)
    return canvas, scale, np.array([left, top], np.float64)


def _outline(canvas: np.ndarray, corners: Floats, colour: tuple[int, int, int], width: int, dashed: bool = False) -> None:
    """A closed outline `[4, 2]` in place; a thick one on a dark one that keeps it visible on bright ground."""
    if not np.isfinite(corners).all() or np.abs(corners).max() > 30_000:
        return
    fixed = np.rint((corners - 0.5) * (1 << _SHIFT)).astype(np.int32)
    if width > 1:
        cv2.polylines(canvas, [fixed], True, _DARK, width + 2, cv2.LINE_AA, _SHIFT)
    if not dashed:
        cv2.polylines(canvas, [fixed], True, colour, width, cv2.LINE_AA, _SHIFT)
        return
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        count = max(2, round(float(np.hypot(*(b - a))) / 6))
        for k in range(0, count, 2):
            ends = a + (b - a) * np.array([[k / count], [min(1, (k + 1) / count)]])
            cv2.polylines(
                canvas, [np.rint((ends - 0.5) * (1 << _SHIFT)).astype(np.int32)], False, colour, width, cv2.LINE_AA, _SHIFT
            )
