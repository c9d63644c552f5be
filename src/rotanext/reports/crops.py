"""Small images of single detections and objects, with the boxes about them: JPEG data for a page."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from rotanext.errors import UserError
from rotanext.evaluation.metrics import Evidence
from rotanext.evaluation.scores import Floats
from rotanext.images.drawing import draw_outline
from rotanext.images.reading import FILL
from rotanext.images.scenes import read_pixels

TRUTH, DETECTION = (46, 204, 113), (255, 140, 26)  # RGB
SIDE = 264  # pixels of a crop
_CONTEXT = 2.4  # side of the window, in the longest extents of the box
_LEAST = 72.0  # pixels of the image that a window shows at least
_QUALITY = 84


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
    for place, item in items:
        if uri := jpeg_uri(draw_case(image, evidence, item, score)):
            yield place, uri


def draw_case(image: np.ndarray, evidence: Evidence, item: Wanted, score: float) -> np.ndarray:
    """The crop `[SIDE, SIDE, 3]` of an image (uint8 RGB) with the boxes in it; see `cut_crops`."""
    predictions, truths = evidence.predictions, evidence.truths
    here, objects = np.flatnonzero(predictions.images == item.image), np.flatnonzero(truths.images == item.image)
    shown = here[(predictions.scores[here] >= score) | (here == item.detection)]
    canvas, scale, corner = cut_window(image, item.corners)
    for row in objects[objects != item.truth]:
        draw_outline(canvas, (truths.corners[row] - corner) * scale, TRUTH, dashed=bool(truths.difficult[row]))
    for row in shown[shown != item.detection]:
        draw_outline(canvas, (predictions.corners[row] - corner) * scale, DETECTION)
    if item.truth >= 0:
        draw_outline(canvas, (truths.corners[item.truth] - corner) * scale, TRUTH, 3, halo=1)
    if item.detection >= 0:
        draw_outline(canvas, (predictions.corners[item.detection] - corner) * scale, DETECTION, 3, halo=1)
    return canvas


def jpeg_uri(image: np.ndarray) -> str:
    """An image (uint8 RGB) as the address of an <img>; empty where it cannot be one."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii") if ok else ""


def cut_window(
    image: np.ndarray, corners: Floats, side: int = SIDE, context: float = _CONTEXT, least: float = _LEAST
) -> tuple[np.ndarray, float, Floats]:
    """A square about the corners `[K, 2]` as `[side, side, 3]`, what lies outside the image filled.

    It is `context` longest extents wide, but at least so many pixels of the image. Returns it with its scale and its outer top-left
    corner in the image: what lies at p there lies at `(p - corner) * scale` in it.
    """
    low, high = corners.min(0), corners.max(0)
    # a detection may be larger than its image, by any factor
    extent = min(max(context * float((high - low).max()), least), 2.0 * max(image.shape[:2]))
    extent = float(np.ceil(extent))
    start = np.floor((low + high) / 2 - extent / 2)
    left, top = (int(np.clip(value, -1e7, 1e7)) for value in start)
    size = int(extent)
    scale = side / size
    canvas = np.full((side, side, 3), FILL, np.uint8)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + size, image.shape[1]), min(top + size, image.shape[0])
    if x0 < x1 and y0 < y1:
        # Where the part of the image comes to lie; it alone is resized, as a window may be larger than the image.
        u0, v0 = (min(round((value - start) * scale), side - 1) for value, start in ((x0, left), (y0, top)))
        u1, v1 = (max(round((value - start) * scale), low + 1) for value, start, low in ((x1, left, u0), (y1, top, v0)))
        how = cv2.INTER_AREA if size > side else cv2.INTER_CUBIC
        canvas[v0:v1, u0:u1] = cv2.resize(image[y0:y1, x0:x1], (u1 - u0, v1 - v0), interpolation=how)
    return canvas, scale, np.array([left, top], np.float64)
