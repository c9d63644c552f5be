"""A synthetic aerial data set: seeded scenes with rotated boxes in the DOTA layout, to try things without a download.

A scene is a street grid at a random angle, whose blocks become airfields, car parks, depots, tank farms, sports
grounds, estates or fields; some have a coast, with harbours and open water beyond.
"""

import math
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from rotanext.data.dota import write_objects
from rotanext.errors import UserError, explain
from rotanext.objects import Objects
from rotanext.synthetic.canvas import Canvas, Frame, box, develop, tone
from rotanext.synthetic.districts import (
    ASPHALT,
    GRASS,
    airfield,
    car_park,
    depot,
    estate,
    fields,
    flat,
    harbour,
    sea,
    sports,
    tank_farm,
)
from rotanext.synthetic.objects import add_car, add_truck
from rotanext.system.progress import Display

CLASS_NAMES = (
    "basketball-court",
    "harbor",
    "large-vehicle",
    "plane",
    "ship",
    "small-vehicle",
    "soccer-ball-field",
    "storage-tank",
    "swimming-pool",
    "tennis-court",
)
BACKGROUND_SHARE = 0.08

District = Callable[[Canvas, Frame, float, float, float], None]
_DISTRICTS: dict[str, District] = {
    "airfield": airfield,
    "car-park": car_park,
    "depot": depot,
    "tanks": tank_farm,
    "sports": sports,
    "estate": estate,
    "fields": fields,
}
# Dealt like cards, so that a scene shows many kinds; the common ones lie in the pack twice.
_PACK = ("airfield", "airfield", "car-park", "depot", "estate", "sports", "sports", "tanks")


def _street(c: Canvas, f: Frame, start: float, end: float, wide: float, crossings: list[float], density: float) -> None:
    """A street along the frame's heading with its traffic; none of it on the crossings."""
    rng, s = c.rng, c.scale
    length, middle = end - start, (start + end) / 2
    flat(c, f, length, wide + 8, (170, 166, 158), 120, middle)
    flat(c, f, length, wide, ASPHALT, 110, middle)
    for x in np.arange(start, end, 24 * s):
        if c.shows(f.move(x, 0), 20):
            flat(c, f, 10 * s, 1.3, (220, 220, 212), 40, x)
    for side in (-1, 1):
        x = start + rng.uniform(0, 60)
        while density and x < end:
            x += (rng.exponential(70) + 34) * s
            if x > end - 20 * s or any(abs(x - at) < wide / 2 + 34 * s for at in crossings):
                continue
            lane = f.move(x, side * wide / 4 + rng.normal(0, 0.8), (0 if side < 0 else math.pi) + rng.normal(0, 0.02))
            if rng.random() < 0.16:
                add_truck(c, lane)
                x += 34 * s
            else:
                add_car(c, lane, covered=rng.random() < 0.06)


def _coast(c: Canvas, f: Frame, at: float, reach: float, quay: bool) -> None:
    """Water beyond `y = at` of the grid's frame, behind a quay or a beach."""
    rng = c.rng
    blue = c.pick(((38, 70, 84), (32, 62, 88), (48, 84, 92), (52, 80, 78)))
    xs = np.arange(-reach, reach + 1, 12.0)
    edge = np.zeros_like(xs)
    if not quay:
        edge = np.convolve(rng.normal(0, 26, len(xs)), np.hanning(9) / 4, "same") + 8
    shore = np.stack([xs, at + edge], 1)
    far = np.array([[reach, at + 2 * reach], [-reach, at + 2 * reach]])
    if quay:
        flat(c, f, 2 * reach, 44 * c.scale, (172, 168, 158), 130, 0, at - 22 * c.scale)
        flat(c, f, 2 * reach, 3, (120, 116, 110), 60, 0, at - 1.5)
    else:
        c.fill(c.ground, f.at(np.concatenate([shore - (0, 46 * c.scale), far])), tone((206, 190, 150), 1, 140))
    sea = f.at(np.concatenate([shore, far]))
    c.fill(c.ground, sea, tone(blue, 1, 30))
    c.fill(c.water, sea, 255)
    if quay:
        c.cast(c.shadow_low, f.at(box(2 * reach, 4, 0, at - 2)), 5)
    else:
        for shift, strength in ((1.5, 200), (6, 90), (12, 60)):
            c.line(c.foam, f.at(shore + np.array([0, shift])), (strength,), 2)


def _steps(rng: np.random.Generator, start: float, reach: float, scale: float) -> list[float]:
    """Grid lines from about -reach to reach that include `start`."""
    lines = [start]
    while lines[-1] < reach:
        lines.append(lines[-1] + scale * rng.uniform(330, 430))
    while lines[0] > -reach:
        lines.insert(0, lines[0] - scale * rng.uniform(330, 430))
    return lines


def draw_scene(
    rng: np.random.Generator | tuple[int, int],
    height: int,
    width: int,
    density: float = 1.0,
    background: bool | None = None,
    coast: bool | None = None,
    scale: float = 1.0,
    classes: Collection[str] = CLASS_NAMES,
) -> tuple[np.ndarray, Objects]:
    """Draw one scene: uint8 RGB `[height, width, 3]` and its objects, from a generator or a pair (seed, index).

    `density` (0 to 1) scales how many places are taken, `scale` enlarges everything; `background` asks for a scene without objects
    (None: one in twelve is), `coast` for one with water (None: by chance). Corners are pixels of the image, unclipped; every
    object lies at least half inside. Objects of other `classes` are drawn, and have no label.
    """
    if not isinstance(rng, np.random.Generator):
        rng = np.random.default_rng(list(rng))
    background = bool(rng.random() < BACKGROUND_SHARE) if background is None else background
    coast = bool(rng.random() < 0.36) if coast is None else coast
    angle, height_of_sun, azimuth = rng.uniform(-math.pi, math.pi), rng.uniform(0.45, 1.0), rng.uniform(0, 2 * math.pi)
    sun = (height_of_sun * math.cos(azimuth), height_of_sun * math.sin(azimuth))
    c = Canvas(rng, height, width, sun, scale * rng.uniform(0.9, 1.15), labels=not background)
    reach = math.hypot(height, width) / 2 + 60
    grid = Frame(width / 2, height / 2, angle)
    flat(c, grid, 2 * reach, 2 * reach, c.pick(GRASS), 230)
    shore = rng.uniform(-0.2, 0.25) * min(height, width) if coast else math.inf
    quay = rng.random() < 0.85 and not background
    us = _steps(rng, rng.uniform(-200, 200), reach, c.scale)
    vs = _steps(rng, shore if coast else rng.uniform(-200, 200), reach, c.scale)
    if coast:
        _coast(c, grid, shore, reach, quay)
    _fill_grid(c, grid, us, vs, shore, quay, 0.0 if background else density)
    objects = Objects(
        corners=np.array(c.corners, np.float64).reshape(-1, 4, 2),
        names=c.names,
        difficult=np.array(c.difficult, np.int64),
    )
    return develop(c), objects.take(np.array([name in classes for name in c.names], bool))


def _fill_grid(c: Canvas, grid: Frame, us: list[float], vs: list[float], shore: float, quay: bool, density: float) -> None:
    """Streets, then a district in every block of the grid that the image shows."""
    rng = c.rng
    wide = c.scale * rng.uniform(28, 36)
    inland = [v for v in vs if v < shore - 1]
    if density or rng.random() < 0.5:
        end = min(vs[-1], shore - (44 * c.scale if quay else 60))
        for u in us:
            _street(c, grid.move(u, 0, math.pi / 2), vs[0], end, wide, inland, density)
        for v in inland:
            _street(c, grid.move(0, v), us[0], us[-1], wide, us, density)
    gap = wide + 14
    pack: list[str] = []
    for v0, v1 in pairwise(vs):
        for u0, u1 in pairwise(us):
            if not c.sees(grid.at([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])):
                continue
            if v0 >= shore - 1:
                length, depth = u1 - u0, v1 - v0
                f = grid.move((u0 + u1) / 2, (v0 + v1) / 2)
                (harbour if quay and v0 < shore + 1 else sea)(c, f, length, depth, density)
                continue
            low, high = v0, v1 - (20 * c.scale if v1 >= shore - 1 else 0)
            length, depth = u1 - u0 - gap, high - low - gap
            f = grid.move((u0 + u1) / 2, (low + high) / 2)
            if rng.random() < 0.5:
                f, length, depth = f._replace(angle=f.angle + math.pi / 2), depth, length
            pack = pack or [_PACK[k] for k in rng.permutation(len(_PACK))]
            kind = pack.pop() if density and rng.random() < 0.95 else "fields"
            _DISTRICTS[kind](c, f, length, depth, density)


def _write_scene(
    index: int, root: Path, size: tuple[int, int], seed: int, density: float, scale: float, classes: Collection[str]
) -> int:
    """Draw and write scene `index`; returns its number of objects."""
    cv2.setNumThreads(1)
    image, objects = draw_scene((seed, index), *size, density=density, scale=scale, classes=classes)
    path = root / "images" / f"scene_{index:05d}.png"
    if not cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3]):
        raise UserError(
            explain(path, "a failed write", "room and the right to write there", "Free some space or choose another folder.")
        )
    write_objects(root / "labelTxt" / f"scene_{index:05d}.txt", objects)
    return len(objects.names)


def make_dataset(
    root: str | Path,
    count: int,
    size: int | tuple[int, int],
    seed: int,
    workers: int = 1,
    density: float = 1.0,
    scale: float = 1.0,
    classes: Collection[str] = CLASS_NAMES,
    console: Console | None = None,
) -> int:
    """Write a DOTA folder (`images/scene_00000.png`, `labelTxt/scene_00000.txt`, ...); returns the number of objects.

    `size` is a side or (height, width) in pixels. Scene i depends on (seed, i) only, however many processes draw.
    The bar is drawn on `console`, stderr by default. Raises UserError where the folder cannot be written.
    """
    root = Path(root)
    size = (size, size) if isinstance(size, int) else size
    try:
        for folder in ("images", "labelTxt"):
            (root / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(explain(root, str(error), "a folder that can be written", "Choose another folder.")) from error
    write = partial(_write_scene, root=root, size=size, seed=seed, density=density, scale=scale, classes=classes)
    track = partial(Display(console).track, what="drawing", total=count, unit="scenes")
    if workers <= 1 or count < 8:
        return sum(track(map(write, range(count))))
    # Spawned, not forked: the caller may hold threads (torch, OpenCV) that a fork would break.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return sum(track(pool.map(write, range(count), chunksize=max(1, min(16, count // (4 * workers))))))
