"""Images with rotated boxes drawn on them, readable at any size, and grids of such images.

Places are those of boxes: (0, 0) is the outer corner of the first pixel, whose middle is (0.5, 0.5). OpenCV counts from that middle
instead, so half a pixel is taken off here and nowhere else; lines keep sixteenths of a pixel.
"""

import colorsys
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from rotanext.detections import Detections
from rotanext.objects import Objects

Colour = tuple[int, int, int]  # RGB

# Light, saturated, and told apart with common colour deficiencies: Okabe and Ito's eight (2008) without their black,
# then more between them in hue and lightness. The order never changes, so that a class index keeps its colour.
_PALETTE: tuple[Colour, ...] = (
    (240, 228, 66), (86, 180, 233), (230, 159, 0), (0, 190, 140), (255, 110, 80), (225, 140, 190), (60, 120, 255),
    (170, 240, 60), (255, 255, 255), (180, 110, 255), (0, 230, 230), (255, 70, 130), (200, 170, 120), (255, 200, 170),
    (150, 210, 170), (150, 150, 255), (255, 90, 230), (190, 200, 40), (120, 230, 120), (210, 90, 40),
)  # fmt: skip
_DARK = (18, 20, 24)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4
_LARGE = 40.0  # pixels; shorter sides from which on a line of two pixels hides nothing
_FAR = 30_000.0  # beyond this OpenCV's fixed-point coordinates and line clipping are not to be trusted


def class_colour(index: int) -> Colour:
    """The RGB colour (0 to 255) of a class index: fixed for the first twenty, then hues in golden-ratio steps."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    value = (1.0, 0.8, 0.9)[index % 3]
    r, g, b = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, (0.65, 0.9, 0.45)[index % 3], value)
    return round(255 * r), round(255 * g), round(255 * b)


def _line_width(height: int, width: int, corners: np.ndarray) -> int:
    """Line width in pixels: 1 on small images, 2 at about 1300 pixels (from 600 around large objects), 4 on 4K."""
    size = math.sqrt(height * width)
    sides = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).min(1)
    sides = sides[np.isfinite(sides)]
    large = size >= 600 and len(sides) > 0 and float(np.median(sides)) >= _LARGE
    return max(1 + large, round(size / 700))


def _font_scale(height: int, width: int) -> float:
    """OpenCV font scale: letters of about 9 pixels on 400-pixel images, 28 on 4K."""
    return max(0.36, min(2.2, 0.24 + math.sqrt(height * width) / 3300))


def _clip_segment(a: np.ndarray, b: np.ndarray, width: int, height: int, pad: float) -> np.ndarray | None:
    """The part `[2, 2]` of a segment in the image and `pad` pixels about it, or None (Liang and Barsky, 1984)."""
    start, end, step = 0.0, 1.0, b - a
    for axis, limit in ((0, width), (1, height)):
        for p, q in ((-step[axis], a[axis] + pad), (step[axis], limit + pad - a[axis])):
            if p == 0:
                if q < 0:
                    return None
            elif p < 0:
                start = max(start, q / p)
            else:
                end = min(end, q / p)
    return np.stack([a + start * step, a + end * step]) if start < end else None


def draw_outline(
    image: np.ndarray,
    corners: np.ndarray,
    colour: Colour,
    width: int = 1,
    halo: int = 0,
    dashed: bool = False,
) -> None:
    """Draw one closed outline `[N, 2]` into an image (uint8 `[H, W, 3]`, in place), `width` pixels wide along its edges.

    halo: pixels of dark seam on either side, which keep a light line visible on bright ground. Corners may lie anywhere; an outline
    with one that is not finite is left out.
    """
    corners = np.asarray(corners, np.float64)
    if not np.isfinite(corners).all():
        return
    if halo:
        _stroke(image, corners, _DARK, width + 2 * halo)
    if not dashed:
        _stroke(image, corners, colour, width)
        return
    for part in _dashes(image, corners, width):
        _polyline(image, part, False, colour, width)


def _stroke(image: np.ndarray, corners: np.ndarray, colour: Colour, width: int) -> None:
    if np.abs(corners).max(initial=0.0) <= _FAR:
        _polyline(image, corners, True, colour, width)
        return
    for part in _visible_edges(image, corners, width):
        _polyline(image, part, False, colour, width)


def _polyline(image: np.ndarray, points: np.ndarray, closed: bool, colour: Colour, width: int) -> None:
    """Points `[N, 2]` no farther than _FAR, with half a pixel taken off for OpenCV."""
    fixed = np.rint((points - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.polylines(image, [fixed], closed, colour, width, cv2.LINE_AA, _SHIFT)


def _visible_edges(image: np.ndarray, corners: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """The parts `[2, 2]` of an outline's edges that lie in the image or next to it."""
    rows, columns = image.shape[:2]
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        part = _clip_segment(a, b, columns, rows, width + 2.0)
        if part is not None:
            yield part


def _dashes(image: np.ndarray, corners: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """The dashes `[2, 2]` of an outline's visible edges: each edge begins and ends with one, where it has room for two."""
    dash = 4.0 * width + 2
    for part in _visible_edges(image, corners, width):
        length = float(np.hypot(*(part[1] - part[0])))
        count = max(1, round(length / dash)) // 2 * 2 + 1
        for k in range(0, count, 2):
            yield part[0] + (part[1] - part[0]) * np.array([[k / count], [(k + 1) / count]])


def _draw_text(image: np.ndarray, text: str, left: int, base: int, scale: float, colour: Colour) -> None:
    """Text in place, thick enough for its size."""
    cv2.putText(image, text, (left, base), _FONT, scale, colour, max(1, round(1.6 * scale)), cv2.LINE_AA)


def _draw_scores(image: np.ndarray, corners: np.ndarray, scores: np.ndarray, colours: list[Colour], scale: float) -> None:
    """The score above each box that is large enough, on a dark ground, moved into the image at its border.

    In the order given: where two would cover each other, the first one is written.
    """
    taken: list[tuple[int, int, int, int]] = []
    rows, columns = image.shape[:2]
    for box, score, colour in zip(corners, scores, colours, strict=True):
        text = f"{score:.2f}"
        (wide, tall), _ = cv2.getTextSize(text, _FONT, scale, max(1, round(1.6 * scale)))
        if not np.isfinite(box).all():
            continue
        longest = float(np.hypot(*(box - np.roll(box, 1, 0)).T).max())
        x, y = box[box[:, 1].argmin()]
        seen = 0 <= x < columns and -tall < y < rows
        if not seen or longest < 1.2 * wide or wide + 4 > columns or tall + 6 > rows:
            continue
        left = int(min(max(0, x - wide / 2), columns - wide - 4))
        top = int(min(max(0, y - tall - 6), rows - tall - 5))
        tag = (left, top, left + wide + 4, top + tall + 5)
        if any(tag[0] < t[2] and t[0] < tag[2] and tag[1] < t[3] and t[1] < tag[3] for t in taken):
            continue
        taken.append(tag)
        image[top : top + tall + 5, left : left + wide + 4] //= 3
        _draw_text(image, text, left + 2, top + tall + 2, scale, colour)


def _busy(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """A small map (at most 256 pixels a side) of where the objects lie."""
    rows, columns = image.shape[:2]
    factor = min(1.0, 256 / max(rows, columns))
    busy = np.zeros((max(1, round(rows * factor)), max(1, round(columns * factor))), np.uint8)
    for box in corners:
        if np.isfinite(box).all() and np.abs(box).max() <= _FAR:
            cv2.fillConvexPoly(busy, np.rint(box * factor).astype(np.int32), 1)
    return busy


def _draw_legend(image: np.ndarray, corners: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """A see-through panel with colour, name and count of each class, in the corner that hides the fewest objects.

    Left out where it would take more than a third of the image's area or not fit at all.
    """
    rows, columns = image.shape[:2]
    counts = Counter(labels.tolist())
    scale = _font_scale(rows, columns)
    entries = [(class_colour(i), f"{class_names[i]}  {n}") for i, n in sorted(counts.items(), key=lambda e: (-e[1], e[0]))]
    sizes = [cv2.getTextSize(text, _FONT, scale, max(1, round(1.6 * scale)))[0] for _, text in entries]
    if not entries:
        return
    tall = max(size[1] for size in sizes)
    step, pad = round(tall * 1.75), round(tall * 0.8)
    wide, high = max(size[0] for size in sizes) + 3 * pad + tall, len(entries) * step + pad
    if wide + 4 > columns or high + 4 > rows or 3 * wide * high > rows * columns:
        return
    margin = min(pad, (columns - wide) // 2, (rows - high) // 2)
    busy = _busy(image, corners)
    fy, fx = busy.shape[0] / rows, busy.shape[1] / columns

    def hidden(place: tuple[int, int]) -> int:
        top, left = place
        return int(busy[int(top * fy) : int((top + high) * fy) + 1, int(left * fx) : int((left + wide) * fx) + 1].sum())

    tops, lefts = (margin, rows - high - margin), (margin, columns - wide - margin)
    top, left = min(((t, x) for x in lefts for t in tops), key=hidden)
    panel = image[top : top + high, left : left + wide]
    panel[:] = (panel * 0.28 + np.array(_DARK) * 0.72).astype(np.uint8)
    for k, (colour, text) in enumerate(entries):
        base = top + pad // 2 + k * step + (step + tall) // 2
        cv2.rectangle(image, (left + pad, base - tall), (left + pad + tall, base), colour, -1)
        _draw_text(image, text, left + 2 * pad + tall, base, scale, (240, 240, 240))


def _draw(
    image: np.ndarray,
    corners: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None,
    difficult: np.ndarray | None,
    legend: bool,
) -> np.ndarray:
    """A copy of the image with outlines, then scores (where they are few), then the legend."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 RGB [H, W, 3]")
    canvas = np.ascontiguousarray(image).copy()
    if 0 in canvas.shape:
        return canvas
    rows, columns = canvas.shape[:2]
    width = _line_width(rows, columns, corners)
    colours = [class_colour(int(label)) for label in labels]
    hard = np.zeros(len(corners), bool) if difficult is None else difficult > 0
    # All seams first, so that none hides a neighbour's line; the least certain first, so that the best lie on top.
    if width > 1:
        for box in corners[~hard][::-1]:
            draw_outline(canvas, box, _DARK, width + 2)
    for k in reversed(range(len(corners))):
        draw_outline(canvas, corners[k], colours[k], width, dashed=bool(hard[k]))
    if scores is not None and len(scores) <= 40:
        _draw_scores(canvas, corners, scores, colours, 0.85 * _font_scale(rows, columns))
    if legend:
        _draw_legend(canvas, corners, labels, class_names)
    return canvas


def draw_detections(image: np.ndarray, detections: Detections, score_threshold: float = 0.3, legend: bool = True) -> np.ndarray:
    """A copy of the image (uint8 RGB `[H, W, 3]`) with the detections of at least that score drawn on it.

    Colours go by class index, letters by the image's size, line width by that and the objects'; scores are written where
    there are at most 40 boxes, beside boxes large enough, and where they do not cover a better one. Raises ValueError for
    another kind of array.
    """
    shown = detections.above(score_threshold)
    return _draw(
        image,
        shown.corners.detach().cpu().double().numpy(),
        shown.labels.cpu().numpy(),
        detections.class_names,
        shown.scores.detach().cpu().numpy(),
        None,
        legend,
    )


def draw_objects(image: np.ndarray, objects: Objects, class_names: Sequence[str], legend: bool = True) -> np.ndarray:
    """A copy of the image (uint8 RGB `[H, W, 3]`) with labelled objects drawn on it, the difficult ones dashed.

    Objects of classes that are not in `class_names` are left out.
    """
    index = {name: i for i, name in enumerate(class_names)}
    known = np.array([name in index for name in objects.names], bool)
    labels = np.array([index[name] for name in objects.names if name in index], np.int64)
    corners = np.asarray(objects.corners, np.float64).reshape(-1, 4, 2)[known]
    return _draw(image, corners, labels, class_names, None, np.asarray(objects.difficult)[known], legend)


def contact_sheet(images: Sequence[np.ndarray], columns: int, gap: int = 6) -> np.ndarray:
    """Images (uint8 RGB, any sizes) in rows of `columns` equal cells on white, each reduced to fit its cell.

    A cell is as large as the largest image, but at most 1024 pixels a side. Raises ValueError without any image or
    column.
    """
    if not images or columns < 1:
        raise ValueError(f"{len(images)} images in {columns} columns; expected at least one of each")
    high = min(1024, max(1, *(image.shape[0] for image in images)))
    wide = min(1024, max(1, *(image.shape[1] for image in images)))
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (high + gap) + gap, columns * (wide + gap) + gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        factor = min(1.0, high / max(1, image.shape[0]), wide / max(1, image.shape[1]))
        if factor < 1:
            size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top = gap + k // columns * (high + gap) + (high - image.shape[0]) // 2
        left = gap + k % columns * (wide + gap) + (wide - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet
