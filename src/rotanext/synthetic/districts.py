"""The districts of a synthetic aerial scene: each fills one block, given as the frame of its middle and its size.

`density` (0 to 1) scales how many of the places for objects are taken.
"""

import math

import numpy as np

from rotanext.synthetic.canvas import Canvas, Colour, Frame, box, tone
from rotanext.synthetic.objects import (
    add_boat,
    add_building,
    add_car,
    add_court,
    add_pier,
    add_plane,
    add_pool,
    add_ship,
    add_tank,
    add_tree,
    add_truck,
)

ASPHALT: Colour = (96, 97, 99)
CONCRETE: Colour = (178, 174, 166)
GRASS: tuple[Colour, ...] = ((104, 118, 70), (92, 110, 66), (118, 122, 78), (132, 126, 86))
_FIELDS: tuple[Colour, ...] = (
    (112, 124, 66),
    (146, 134, 88),
    (168, 150, 106),
    (88, 108, 58),
    (126, 104, 76),
    (150, 152, 92),
)


def flat(c: Canvas, f: Frame, length: float, width: float, colour: Colour, gain: int = 150, x: float = 0, y: float = 0) -> None:
    """A rectangle of ground; the gain is the strength of its texture (0 to 255)."""
    c.fill(c.ground, f.at(box(length, width, x, y)), tone(colour, 1, gain))


def _scatter_trees(c: Canvas, f: Frame, length: float, width: float, count: int) -> None:
    """Trees where nothing stands."""
    for x, y in f.at(c.rng.uniform(-0.5, 0.5, (count, 2)) * (length, width)).tolist():
        add_tree(c, x, y)


def car_park(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """Double rows of stalls beside a shop; some rows are sparse."""
    rng, s = c.rng, c.scale
    flat(c, f, length, width, c.pick(GRASS), 220)
    shop = width * rng.uniform(0.2, 0.4)
    add_building(c, f.move(rng.uniform(-0.1, 0.1) * length, -width / 2 + shop / 2), length * rng.uniform(0.5, 0.8), shop - 16, 14)
    lot = width - shop - 8
    f = f.move(0, width / 2 - lot / 2)
    asphalt = c.pick((ASPHALT, (112, 112, 112), (84, 86, 90)))
    flat(c, f, length, lot, asphalt, 110)
    stall, depth = 13.5 * s, 27 * s
    y, mark = -lot / 2 + 6, tone((214, 214, 208), 1, 40)
    while y + 2 * depth < lot / 2:
        busy = density * rng.choice((0.35, 0.7, 0.92))
        xs = np.arange(-length / 2 + 22 * s, length / 2 - 22 * s, stall)
        c.line(c.ground, f.at([[xs[0], y + depth], [xs[-1], y + depth]]), mark, 1)
        xs = np.array([x for x in xs if c.shows(f.move(x, y + depth), 2 * depth)])
        for x in xs:
            c.line(c.ground, f.at([[x, y], [x, y + 2 * depth]]), mark, 1)
        island = rng.random() < 0.5
        for i, x in enumerate(xs[:-1]):
            if island and i % 9 == 4:
                flat(c, f, stall, 2 * depth, GRASS[0], 200, x + stall / 2, y + depth)
                ((px, py),) = f.at([[x + stall / 2, y + depth]])
                add_tree(c, px, py, over=True)
                continue
            for row, turn in ((0.5, -math.pi / 2), (1.5, math.pi / 2)):
                if rng.random() < busy:
                    jitter = rng.normal(0, (0.5, 1.2, 0.02))
                    flip = math.pi if rng.random() < 0.25 else 0
                    add_car(c, f.move(x + stall / 2 + jitter[0], y + row * depth + jitter[1], turn + flip + jitter[2]))
        y += 2 * depth + 27 * s


def depot(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """A warehouse whose docks and yard are full of lorries, side by side."""
    rng, s = c.rng, c.scale
    flat(c, f, length, width, c.pick((CONCRETE, (150, 150, 148), (128, 128, 126))), 120)
    hall = width * rng.uniform(0.3, 0.42)
    add_building(c, f.move(0, -width / 2 + hall / 2 + 6), length * 0.82, hall, 16)
    y = -width / 2 + hall + 8 + 31 * s
    pitch, busy = rng.uniform(18, 22) * s, density * rng.choice((0.5, 0.75, 0.95))
    slant = rng.choice((0.0, 0.0, 0.5, -0.5))
    while y < width / 2 - 30 * s:
        for x in np.arange(-length * 0.4, length * 0.4, pitch / math.cos(slant)):
            c.line(
                c.ground,
                f.move(x + pitch / 2, y, slant).at([[0, -30 * s], [0, 30 * s]]),
                tone((222, 214, 150), 1, 40),
                1,
            )
            if rng.random() < busy:
                turn = math.pi / 2 if rng.random() < 0.8 else -math.pi / 2
                add_truck(c, f.move(x, y + rng.normal(0, 1.5), turn + slant + rng.normal(0, 0.015)))
        y += 92 * s
    for _ in range(int(3 * density)):
        add_car(c, f.move(length * 0.46, rng.uniform(-0.4, 0.4) * width, math.pi / 2))


def airfield(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """A runway, a taxiway and an apron with rows of planes."""
    rng, s = c.rng, c.scale
    flat(c, f, length + 30, width + 30, c.pick(GRASS), 230)
    strip = f.move(0, width / 2 - 24 * s)
    flat(c, strip, length + 40, 46 * s, (92, 92, 94), 120)
    for y in (-20 * s, 20 * s):
        c.line(c.ground, strip.at([[-length / 2 - 20, y], [length / 2 + 20, y]]), tone((226, 226, 220), 1, 60), 2)
    for x in np.arange(-length / 2, length / 2, 34 * s):
        flat(c, strip, 18 * s, 1.6 * s, (228, 228, 222), 60, x)
    for y in np.arange(-16, 17, 4.6) * s:
        flat(c, strip, 26 * s, 2.2 * s, (226, 226, 220), 80, -length / 2 + 24 * s, y)
        flat(c, strip, 60 * s, 1.2 * s, (80, 80, 82), 160, -length / 2 + 90 * s, y * 0.5)
    taxi = f.move(0, width / 2 - 78 * s)
    flat(c, taxi, length + 40, 22 * s, (128, 127, 124), 110)
    for x in (-0.34, 0.34):
        flat(c, taxi, 22 * s, 50 * s, (128, 127, 124), 110, x * length, 22 * s)
    yellow = tone((206, 176, 70), 1, 60)
    c.line(c.ground, taxi.at([[-length / 2 - 20, 0], [length / 2 + 20, 0]]), yellow, 1)
    apron_width = width - 106 * s
    apron = f.move(0, -width / 2 + apron_width / 2)
    slab = c.pick((CONCRETE, (190, 186, 178), (158, 158, 156)))
    flat(c, apron, length, apron_width + 14 * s, slab, 130)
    for x in np.arange(-length / 2, length / 2, 22):
        c.line(c.ground, apron.at([[x, -apron_width / 2], [x, apron_width / 2]]), tone(slab, 0.92, 120), 1)
    for y in np.arange(-apron_width / 2, apron_width / 2, 22):
        c.line(c.ground, apron.at([[-length / 2, y], [length / 2, y]]), tone(slab, 0.92, 120), 1)
    kind = ("airliner", "airliner", "light", "fighter")[int(rng.integers(4))]
    size = {"airliner": rng.uniform(62, 88), "light": rng.uniform(38, 48), "fighter": rng.uniform(44, 56)}[kind] * s
    pitch, turn = size * rng.uniform(1.04, 1.16), rng.choice((0.5, 0.5, -0.5, 0.32, 0.68)) * math.pi
    y = -apron_width / 2 + size * 0.62
    if rng.random() < 0.5:
        for x in (-0.3, 0.05, 0.38):
            add_building(c, apron.move(x * length, -apron_width / 2 + 20 * s), length * 0.26, 38 * s, 12)
        y += 44 * s
    while y < apron_width / 2 - size * 0.4:
        for x in np.arange(-length / 2 + pitch * 0.6, length / 2 - pitch * 0.4, pitch):
            c.line(c.ground, apron.move(x, y, turn).at([[-size * 0.55, 0], [size * 0.8, 0]]), yellow, 1)
            if rng.random() < 0.84 * density:
                other = size * rng.uniform(0.9, 1.05)
                add_plane(c, apron.move(x, y, turn + rng.normal(0, 0.03)), kind, other)
        y += size * 1.3


def tank_farm(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """Groups of equal tanks in walled basins, joined by pipes."""
    rng, s = c.rng, c.scale
    soil = c.pick(((168, 152, 124), (150, 144, 132), (180, 168, 142), (132, 134, 108)))
    flat(c, f, length, width, soil, 200)
    columns = max(1, round(length / (170 * s)))
    rows = max(1, round(width / (150 * s)))
    a, b = length / columns, width / rows
    for i in range(columns):
        for j in range(rows):
            g = f.move((i + 0.5) * a - length / 2, (j + 0.5) * b - width / 2)
            if rng.random() < 0.12:
                add_building(c, g, a * 0.4, b * 0.3, 10)
                continue
            flat(c, g, a - 14, b - 14, tone(soil, 1.14)[:3], 120)
            flat(c, g, a - 20, b - 20, tone(soil, 0.93)[:3], 220)
            radius = s * rng.uniform(11, 28)
            pitch = 2 * radius + s * rng.uniform(6, 14)
            nx, ny = int((a - 22) // pitch), int((b - 22) // pitch)
            for k in range(nx):
                x = (k - (nx - 1) / 2) * pitch
                c.line(c.ground, g.at([[x, -b / 2 + 8], [x, b / 2 - 8]]), tone((190, 190, 186), 1, 60), 2)
                for m in range(ny):
                    if rng.random() < 0.9 * density:
                        add_tank(c, g.move(x, (m - (ny - 1) / 2) * pitch, rng.uniform(0, 6)), radius)


def sports(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """A pitch, rows of courts and a pool in a park."""
    rng, s = c.rng, c.scale
    flat(c, f, length, width, c.pick(GRASS[:3]), 220)
    path = tone((186, 174, 150), 1, 120)
    c.line(c.ground, f.at([[-length / 2, 0.02 * width], [length / 2, 0.02 * width]]), path, 10)
    c.line(c.ground, f.at([[0, -width / 2], [0, width / 2]]), path, 8)
    corners = [(-0.26, -0.26), (0.26, -0.26), (-0.26, 0.27), (0.26, 0.27)]
    kinds = rng.permutation(
        ["soccer-ball-field", "tennis-court", "basketball-court", "tennis-court" if rng.random() < 0.4 else "pool"]
    )
    for (x, y), kind in zip(corners, kinds, strict=True):
        g = f.move(x * length, y * width, rng.choice((0.0, 0.0, math.pi / 2)) + rng.choice((0.0, rng.normal(0, 0.25))))
        if kind == "soccer-ball-field":
            add_court(c, g._replace(angle=f.angle + rng.normal(0, 0.05)), str(kind), s * rng.uniform(122, 146))
        elif kind == "pool":
            flat(c, g, 92 * s, 62 * s, (206, 198, 182), 90)
            add_pool(c, g, s * rng.uniform(52, 68), s * rng.uniform(24, 30))
        else:
            size = s * rng.uniform(72, 92)
            step, count = size * (0.58 if kind == "tennis-court" else 0.64), int(rng.integers(2, 4))
            flat(c, g, size + 8, step * count + 4, (120, 126, 118), 120)
            for k in range(count):
                add_court(c, g.move(0, (k - (count - 1) / 2) * step), str(kind), size)
    _scatter_trees(c, f, length - 16, width - 16, 46)


def estate(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """Houses with gardens, pools, drives and trees along a street."""
    rng, s = c.rng, c.scale
    flat(c, f, length, width, c.pick(GRASS), 230)
    flat(c, f, length, 20 * s, ASPHALT, 100)
    plot = rng.uniform(64, 80) * s
    for x in np.arange(-length / 2 + plot / 2, length / 2 - plot / 3, plot):
        for side in (-1, 1):
            g = f.move(x, side * (10 * s + (width / 2 - 10 * s) * 0.42), 0)
            add_building(c, g.move(0, 0, rng.normal(0, 0.04)), plot * rng.uniform(0.52, 0.66), plot * rng.uniform(0.4, 0.6), 8)
            drive = f.move(x + plot * 0.4, side * 34 * s, math.pi / 2)
            flat(c, drive, 48 * s, 12 * s, (160, 156, 150), 120)
            if rng.random() < 0.6 * density:
                add_car(c, drive.move(rng.uniform(-8, 8) * s, 0, rng.normal(0, 0.04)))
            c.line(
                c.ground,
                f.at([[x + plot / 2, side * 10 * s], [x + plot / 2, side * width / 2]]),
                (120, 112, 92, 120),
                2,
            )
            if rng.random() < 0.7 * density:
                yard = f.move(x + rng.uniform(-8, 8), side * (width / 2 - 26 * s), rng.normal(0, 0.25))
                add_pool(c, yard, s * rng.uniform(26, 36), s * rng.uniform(14, 19))
    for x in np.arange(-length / 2 + 20, length / 2 - 20, 30 * s):
        if rng.random() < 0.35 * density:
            add_car(c, f.move(x, rng.choice((-5.2, 5.2)) * s, rng.normal(0, 0.03)), covered=rng.random() < 0.2)
    _scatter_trees(c, f, length, width - 10, int(length * width / 1900))


def fields(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """Furrowed fields, meadows and woods: no objects."""
    rng = c.rng
    parts = int(rng.integers(1, 4))
    for i in range(parts):
        g, a = f.move((i + 0.5) / parts * length - length / 2, 0), length / parts
        colour = c.pick(_FIELDS)
        flat(c, g, a, width, colour, 235)
        if rng.random() < 0.3:
            _scatter_trees(c, g, a, width, int(a * width / 330))
        elif rng.random() < 0.75:
            for x in np.arange(-a / 2 + 2, a / 2, rng.uniform(4, 11)):
                c.line(c.ground, g.at([[x, -width / 2], [x, width / 2]]), tone(colour, rng.uniform(0.88, 1.08), 235), 2)
        c.line(c.ground, g.at([[a / 2, -width / 2], [a / 2, width / 2]]), tone(colour, 0.75, 200), 3)
    for y in np.arange(-width / 2, width / 2, 15):
        if rng.random() < 0.5:
            ((px, py),) = f.at([[-length / 2, y + rng.uniform(-4, 4)]])
            add_tree(c, px, py)


def _wake(c: Canvas, f: Frame, length: float) -> None:
    """The foam behind and beside a ship under way: two spreading arms and a churned band between them."""
    xs = -0.46 - np.linspace(0, 1, 13) ** 1.2 * c.rng.uniform(1.6, 2.6)
    spread, thick = 0.05 + 0.17 * (-0.46 - xs), 0.02 + 0.022 * (-0.46 - xs)
    for k in range(12):
        fade = (1 - k / 12) ** 1.3
        x = xs[[k, k + 1]]
        band = np.stack([np.r_[x, x[::-1]], np.r_[[0.055, 0.055], [-0.055, -0.055]] * (1 + 0.06 * k)], 1)
        c.fill(c.foam, f.at(band * length), int(150 * fade))
        for side in (-1, 1):
            y, t = spread[[k, k + 1]], thick[[k, k + 1]]
            arm = np.stack([np.r_[x, x[::-1]], side * np.r_[y, (y + t)[::-1]]], 1)
            c.fill(c.foam, f.at(arm * length), int(215 * fade))
    for side in (-1, 1):
        bow = np.array([[0.5, 0.0], [0.3, 0.13 * side], [-0.2, 0.21 * side], [0.2, 0.1 * side]]) * length
        c.fill(c.foam, f.at(bow), 170)


def sea(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """Ships under way."""
    rng, s = c.rng, c.scale
    for _ in range(int(rng.integers(2, 5) * density)):
        g = f.move(rng.uniform(-0.45, 0.45) * length, rng.uniform(-0.45, 0.45) * width, rng.uniform(0, 2 * math.pi))
        small = rng.random() < 0.5
        size = s * (rng.uniform(28, 44) if small else rng.uniform(76, 118))
        if add_boat(c, g, size) if small else add_ship(c, g, size):
            _wake(c, g, size)


def harbour(c: Canvas, f: Frame, length: float, width: float, density: float) -> None:
    """Piers from the quay, at the frame's near edge, with boats or ships along them."""
    rng, s = c.rng, c.scale
    f = f.move(-length / 2, -width / 2, 0)
    marina = rng.random() < 0.6
    x = rng.uniform(30, 60) * s
    while x < length - 30 * s:
        pier, broad = s * rng.uniform(105, 190), s * rng.uniform(20, 27)
        size = s * (rng.uniform(32, 46) if marina else rng.uniform(76, 112))
        g = f.move(x, 0, math.pi / 2 + (rng.normal(0, 0.03)))
        if add_pier(c, g, pier, broad):
            for side in (-1, 1):
                _moor(c, g, pier, broad / 2, size, side, marina, density * rng.uniform(0.5, 1.0))
        x += broad + (2.2 * size + 26 * s if marina else 0.9 * size + 20 * s) + rng.uniform(4, 40) * s
    sea(c, f.move(length / 2, width * 0.75), length, width * 0.45, 0.5 * density)


def _moor(c: Canvas, g: Frame, pier: float, edge: float, size: float, side: int, marina: bool, busy: float) -> None:
    """Boats side by side across one side of a pier, or ships along it."""
    rng = c.rng
    step = size * 0.4 if marina else size * 1.1
    for x in np.arange(step * 0.7 + 4, pier - step * 0.4, step):
        if rng.random() > busy:
            continue
        if marina:
            here = size * rng.choice((1.0, 0.92, 0.82))
            turn = side * math.pi / 2 + (math.pi if rng.random() < 0.4 else 0)
            add_boat(c, g.move(x, side * (edge + 2.5 + here / 2), turn + rng.normal(0, 0.025)), here)
        else:
            add_ship(c, g.move(x, side * (edge + 3.5 + size * 0.108), math.pi if rng.random() < 0.5 else 0), size)
