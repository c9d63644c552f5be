"""Files of detections on overlapping tiles, brought into the scene's frame and merged by non-maximum suppression per class."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rotanext.data.task1 import read_task1
from rotanext.data.tiles import parse_tile_name
from rotanext.errors import Problems, UserError, explain
from rotanext.ops import overlapping_polygons
from rotanext.system.files import write_bytes

MERGE_IOU = 0.1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def polygon_nms(corners: Floats, scores: Floats, iou_threshold: float) -> Ints:
    """Greedy non-maximum suppression of quadrilaterals; the kept indices, best first.

    corners `[N, 4, 2]` of simple quadrilaterals, convex or not; scores `[N]`. One is dropped when its IoU with a kept,
    better one is greater than the threshold. Ties in score: the lower index wins.
    """
    order = np.argsort(-scores, kind="stable")
    i, j, iou = overlapping_polygons(corners[order], corners[order])
    over = (i < j) & (iou > iou_threshold)
    i, j = i[over], j[over]
    alive = np.ones(len(order), bool)
    better, starts = np.unique(i, return_index=True)
    for winner, losers in zip(better.tolist(), np.split(j, starts[1:]), strict=False):
        if alive[winner]:
            alive[losers] = False
    return order[alive]


def merge_task1(
    tile_dir: str | Path, out_dir: str | Path, iou_threshold: float = MERGE_IOU, problems: Problems | None = None
) -> tuple[int, int]:
    """Merge a folder of `Task1_<class>.txt` files on tiles into one on whole images.

    Returns how many detections were read and how many were kept. Per class, images in the order of their first line,
    best detection first. The quadrilaterals stay as they are (polygon IoU, no rectangles fitted). Lines whose name is
    not a tile's go to problems; UserError where the two folders are the same.
    """
    problems = Problems() if problems is None else problems
    source, target = Path(tile_dir), Path(out_dir)
    if source.resolve() == target.resolve():
        raise UserError(explain(target, "the folder of the tiles", "another folder for the result", "Choose a new one."))
    lines = read_task1(source, problems)
    target.mkdir(parents=True, exist_ok=True)
    total = kept = 0
    for name, of_class in lines.items():
        path = source / f"Task1_{name}.txt"
        scenes: dict[str, list[tuple[float, Floats]]] = {}
        for line in of_class:
            tile = parse_tile_name(line.stem)
            if tile is None:
                expected = "a tile's name like P0032__1024__824___0"
                problems.add(path, f"'{line.stem}'", expected, "Detections on whole images need no merging.")
                continue
            corners = (np.reshape(line.corners, (4, 2)) + np.array([tile.x, tile.y], np.float64)) / tile.rate
            scenes.setdefault(tile.stem, []).append((float(line.score), corners))
            total += 1
        text = []
        for stem, found in scenes.items():
            scores, quads = np.array([score for score, _ in found]), np.stack([corners for _, corners in found])
            for k in polygon_nms(quads, scores, iou_threshold).tolist():
                # A ten-thousandth of a pixel: hides the sum's rounding, not a digit that was read.
                numbers = " ".join(str(value) for value in np.round(quads[k].ravel(), 4).tolist())
                text.append(f"{stem} {scores[k].item()} {numbers}\n")
        write_bytes(target / f"Task1_{name}.txt", "".join(text).encode())
        kept += len(text)
    return total, kept
