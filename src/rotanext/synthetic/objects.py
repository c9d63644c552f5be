"""What stands in a synthetic aerial scene: one function per kind of object, which places, labels and draws it.

Every `add_...` returns False, and draws nothing, where there is no room or too little of it would lie in the image.
"""

import math

import numpy as np

from rotanext.synthetic.canvas import SCALE, Canvas, Colour, Frame, box, mirror, ring, tone

PAINTS: tuple[Colour, ...] = (
    (236, 236, 232), (228, 229, 230), (190, 193, 196), (150, 153, 158), (104, 107, 112), (52, 54, 58),
    (36, 37, 40), (158, 36, 34), (44, 72, 128), (84, 112, 150), (122, 98, 70), (196, 170, 60),
)  # fmt: skip
CARGO: tuple[Colour, ...] = (
    (168, 62, 44), (54, 92, 140), (62, 120, 86), (196, 140, 58), (208, 208, 204), (122, 70, 56),
)  # fmt: skip


def add_tree(c: Canvas, x: float, y: float, over: bool = False) -> bool:
    """A tree, where nothing stands (or over whatever stands there)."""
    sprite = c.trees[int(c.rng.integers(len(c.trees)))]
    radius = sprite.shape[0] / (2 * SCALE)
    if not (-radius < x < c.width + radius and -radius < y < c.height + radius):
        return False
    if not over and not c.free(x, y, radius * 0.85):
        return False
    for lift in (radius * 0.5, radius):
        c.fill(c.shadow_high, ring(radius * 0.8, x + c.sun[0] * lift, y + c.sun[1] * lift, 12), 255)
    c.stamp(sprite, x, y)
    return True


def add_building(c: Canvas, f: Frame, length: float, width: float, height: float) -> bool:
    """A building without a label: gabled when small, flat with plant on the roof when large."""
    outline = f.at(box(length, width))
    if not c.claim(outline):
        return False
    c.cast(c.shadow_high, outline, height)
    rng = c.rng
    if max(length, width) < 75 * c.scale:
        roof = c.pick(((150, 84, 62), (128, 76, 60), (112, 106, 100), (92, 90, 92), (160, 140, 118), (138, 64, 50)))
        if length < width:
            f, length, width = f._replace(angle=f.angle + math.pi / 2), width, length
        lit = -(c.sun[0] * -math.sin(f.angle) + c.sun[1] * math.cos(f.angle)) / max(0.2, math.hypot(*c.sun))
        c.fill(c.high, f.at(box(length, width)), tone(roof, 1 - 0.22 * lit))
        c.fill(c.high, f.at(box(length, width / 2, 0, width / 4)), tone(roof, 1 + 0.22 * lit))
        c.line(c.high, f.at([[-length / 2, 0], [length / 2, 0]]), tone(roof, 1.25))
        side = width / 4 * (1 if rng.random() < 0.5 else -1)
        c.fill(c.high, f.at(box(4, 4, rng.uniform(-0.3, 0.3) * length, side)), tone((120, 70, 60), 0.8))
        return True
    roof = c.pick(((196, 194, 188), (168, 168, 166), (142, 146, 150), (206, 202, 192), (120, 128, 138), (176, 160, 142)))
    c.fill(c.high, outline, tone(roof, 1.18))
    c.fill(c.high, f.at(box(length - 4, width - 4)), tone(roof, 0.78))
    inner = f.at(box(length - 6, width - 6))
    c.fill(c.high, inner, tone(roof, 1))
    for x in np.arange(-length / 2 + 14, length / 2 - 8, 16):
        c.line(c.high, f.at([[x, -width / 2 + 4], [x, width / 2 - 4]]), tone(roof, 0.95), 1)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform(-0.4, 0.4) * length, rng.uniform(-0.4, 0.4) * width
        part = f.at(box(rng.uniform(5, 10), rng.uniform(5, 9), x, y))
        c.fill(c.high, part + np.array(c.sun) * 2.5, tone(roof, 0.55))
        c.fill(c.high, part, tone(roof, rng.choice((0.85, 1.22))))
    return True


def add_car(c: Canvas, f: Frame, covered: bool = False) -> bool:
    """A small vehicle; `covered` puts a tree above it and makes it difficult."""
    rng, s = c.rng, c.scale
    length, width = s * rng.uniform(19.5, 24.5), s * rng.uniform(9.4, 11)
    if not c.shows(f, length) or not c.place("small-vehicle", f.at(box(length, width)), covered):
        return False
    paint = c.pick(PAINTS)
    glass = tone((34, 40, 48), rng.uniform(0.8, 1.3))
    c.cast(c.shadow_low, f.at(box(length - 1, width - 1)), 3.4 * s)
    a, b = length / 2, width / 2
    body = mirror([[a, b * 0.55], [a * 0.86, b * 0.96], [a * 0.4, b], [-a * 0.86, b], [-a, b * 0.7]])
    c.fill(c.low, f.at(body), tone(paint, 0.72))
    c.fill(c.low, f.at(body * (0.95, 0.86)), tone(paint, 1))
    c.fill(
        c.low,
        f.at(mirror([[a * 0.42, b * 0.5], [a * 0.1, b * 0.74], [-a * 0.5, b * 0.74], [-a * 0.74, b * 0.52]])),
        glass,
    )
    c.fill(c.low, f.at(mirror([[a * 0.12, b * 0.62], [-a * 0.46, b * 0.62]])), tone(paint, 1.08))
    if covered:
        x, y = f.at([[length * rng.uniform(0.3, 0.6), rng.uniform(-4, 4)]])[0]
        add_tree(c, x, y, over=True)
    return True


def add_truck(c: Canvas, f: Frame) -> bool:
    """A large vehicle: an articulated lorry, or a bus."""
    rng, s = c.rng, c.scale
    length, width = s * rng.uniform(46, 60), s * rng.uniform(13, 15)
    if not c.shows(f, length) or not c.place("large-vehicle", f.at(box(length, width))):
        return False
    c.cast(c.shadow_low, f.at(box(length - 1, width - 1)), 7 * s)
    a, b = length / 2, width / 2
    if rng.random() < 0.2:
        paint = c.pick(((214, 178, 60), (200, 60, 50), (222, 224, 222), (60, 110, 150)))
        c.fill(c.low, f.at(mirror([[a, b * 0.8], [a * 0.94, b], [-a, b]])), tone(paint, 0.75))
        c.fill(c.low, f.at(box(length * 0.96, width * 0.82)), tone(paint, 1))
        for x in (-0.55, 0.05, 0.5):
            c.fill(c.low, f.at(box(length * 0.1, width * 0.42, a * x)), tone(paint, 0.8))
        c.fill(c.low, f.at(box(length * 0.025, width * 0.8, a * 0.94)), tone((30, 36, 44), 1))
        return True
    trailer, cab = c.pick(((232, 232, 228), (214, 216, 218), (196, 196, 190), *CARGO[:4])), c.pick(PAINTS)
    end = a * 0.5
    c.fill(c.low, f.at(box(length * 0.3, width * 0.5, a * 0.5)), tone((44, 44, 46), 1))
    c.fill(c.low, f.at(mirror([[end, b], [-a, b]])), tone(trailer, 0.74))
    c.fill(c.low, f.at(mirror([[end - 1, b * 0.84], [1.2 - a, b * 0.84]])), tone(trailer, 1))
    for x in np.linspace(-a * 0.8, end - a * 0.2, 5):
        c.line(c.low, f.at([[x, -b * 0.8], [x, b * 0.8]]), tone(trailer, 0.9), 1)
    c.fill(c.low, f.at(mirror([[a, b * 0.8], [a * 0.96, b * 0.95], [a * 0.62, b * 0.95]])), tone(cab, 0.8))
    c.fill(c.low, f.at(mirror([[a * 0.9, b * 0.75], [a * 0.66, b * 0.75]])), tone(cab, 1.05))
    c.fill(c.low, f.at(mirror([[a * 0.97, b * 0.7], [a * 0.91, b * 0.78]])), tone((32, 38, 46), 1))
    return True


def _airliner(rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Outlines of an airliner one long (nose at +0.5), with the brightness of each, wings first."""
    span, back = rng.uniform(0.42, 0.5), rng.uniform(0.0, 0.06)
    wing = np.array([[0.13, 0.03], [-0.1 - back, span], [-0.17 - back, span], [-0.08, 0.17], [-0.11, 0.03]])
    tail = np.array([[-0.35, 0.02], [-0.45, 0.17], [-0.5, 0.17], [-0.455, 0.02]])
    body = [[0.5, 0], [0.475, 0.024], [0.42, 0.041], [0.3, 0.048], [-0.22, 0.048], [-0.4, 0.028], [-0.5, 0.007]]
    parts = [(wing, 0.94), (wing * (1, -1), 0.84), (tail, 0.92), (tail * (1, -1), 0.82)]
    for y in (0.165,) if rng.random() < 0.7 else (0.14, 0.29):
        engine = box(0.1, 0.042, 0.065 - 0.55 * (y - 0.14), y)
        parts += [(engine, 0.66), (engine * (1, -1), 0.62)]
    return [*parts, (mirror(body), 1.0)]


def _light_plane(rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Outlines of a propeller plane with straight wings."""
    chord, span = rng.uniform(0.07, 0.09), rng.uniform(0.5, 0.58)
    wing = np.array([[0.16 + chord, 0.02], [0.16 + chord * 0.6, span], [0.16 - chord * 0.6, span], [0.16 - chord, 0.02]])
    tail = np.array([[-0.38, 0.01], [-0.4, 0.19], [-0.49, 0.19], [-0.5, 0.01]])
    body = [[0.5, 0.0], [0.49, 0.03], [0.42, 0.06], [0.1, 0.062], [-0.2, 0.035], [-0.5, 0.012]]
    return [(wing, 0.96), (wing * (1, -1), 0.88), (tail, 0.94), (tail * (1, -1), 0.86), (mirror(body), 1.0)]


def _fighter(rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Outlines of a fighter with cropped delta wings."""
    wing = np.array([[0.14, 0.05], [-0.16, rng.uniform(0.3, 0.36)], [-0.28, 0.33], [-0.3, 0.05]])
    tail = np.array([[-0.28, 0.05], [-0.42, 0.19], [-0.5, 0.19], [-0.46, 0.05]])
    body = [[0.5, 0.0], [0.36, 0.026], [0.16, 0.05], [-0.3, 0.064], [-0.48, 0.05]]
    return [(wing, 0.95), (wing * (1, -1), 0.86), (tail, 0.92), (tail * (1, -1), 0.84), (mirror(body), 1.02)]


def add_plane(c: Canvas, f: Frame, kind: str, size: float) -> bool:
    """A parked plane, `kind` "airliner", "light" or "fighter"; f is its middle, `size` its length in pixels."""
    rng = c.rng
    if not c.shows(f, size):
        return False
    parts = {"airliner": _airliner, "light": _light_plane, "fighter": _fighter}[kind](rng)
    points = np.concatenate([outline for outline, _ in parts]) * size
    low, high = points.min(0), points.max(0)
    extent = box(high[0] - low[0], high[1] - low[1], (low[0] + high[0]) / 2, (low[1] + high[1]) / 2)
    if not c.place("plane", f.at(extent)):
        return False
    greys: tuple[Colour, ...] = ((128, 134, 140), (112, 118, 120))
    paint = c.pick(greys if kind == "fighter" else ((240, 240, 238), (234, 236, 238), (222, 224, 226), (206, 210, 214)))
    for outline, light in parts:
        points = f.at(outline * size)
        c.cast(c.shadow_high, points, 7 * size / 70, convex=False)
        c.fill(c.high, points, tone(paint, light))
    band = c.pick(((40, 70, 140), (176, 40, 44), (30, 110, 90), (220, 140, 40), (90, 90, 100)))
    if kind == "fighter":
        c.fill(c.high, f.at(mirror(np.array([[0.34, 0.008], [0.26, 0.022], [0.14, 0.01]]) * size)), tone((40, 44, 50), 1))
        return True
    c.line(c.high, f.at(np.array([[0.42, 0], [-0.3, 0]]) * size), tone(paint, 1.06), 2)
    c.fill(c.high, f.at(mirror(np.array([[-0.32, 0.004], [-0.4, 0.012], [-0.5, 0.01]]) * size)), tone(band, 1))
    window = (0.465, 0.445, 0.02) if kind == "airliner" else (0.3, 0.24, 0.035)
    c.fill(
        c.high,
        f.at(box(abs(window[0] - window[1]) * size, 2 * window[2] * size, window[1] * size)),
        tone((40, 46, 56), 1),
    )
    return True


def _hull(length: float, beam: float, taper: float) -> np.ndarray:
    """The outline of a ship with its bow at +x; `taper` is the share of the length that narrows towards the bow."""
    a, b = length / 2, beam / 2
    t = length * taper
    half = [[a, 0], [a - 0.16 * t, b * 0.36], [a - 0.45 * t, b * 0.72], [a - t, b], [-a * 0.86, b], [-a, b * 0.74]]
    return mirror(half)


def add_boat(c: Canvas, f: Frame, length: float, small: bool = False) -> bool:
    """A yacht or motor boat; `small` marks it difficult."""
    rng, beam = c.rng, length * c.rng.uniform(0.29, 0.35)
    if not c.shows(f, length) or not c.place("ship", f.at(box(length, beam)), small):
        return False
    paint = c.pick(((240, 240, 238), (234, 234, 230), (222, 226, 230), (70, 92, 128), (150, 52, 48)))
    deck = c.pick(((226, 222, 212), (196, 160, 116), (178, 142, 100), (232, 232, 230)))
    c.cast(c.shadow_low, f.at(_hull(length, beam, 0.5)), 3)
    c.fill(c.low, f.at(_hull(length, beam, 0.5)), tone(paint, 0.95))
    c.fill(c.low, f.at(_hull(length, beam, 0.5) * (0.88, 0.74)), tone(deck, 1))
    cabin = box(length * 0.36, beam * 0.5, -length * rng.uniform(0.0, 0.1))
    c.fill(c.low, f.at(cabin), tone((242, 242, 240), 1))
    c.fill(c.low, f.at(box(length * 0.07, beam * 0.5, length * 0.14)), tone((44, 56, 70), 1))
    if rng.random() < 0.4:
        c.fill(c.low, f.at(box(length * 0.2, beam * 0.6, -length * 0.33)), tone(c.pick(((40, 70, 120), (120, 50, 46))), 1))
    return True


def add_ship(c: Canvas, f: Frame, length: float) -> bool:
    """A freighter with containers, a tanker or a ferry."""
    rng, beam = c.rng, length * c.rng.uniform(0.18, 0.215)
    if not c.shows(f, length) or not c.place("ship", f.at(box(length, beam))):
        return False
    a, b, kind = length / 2, beam / 2, rng.random()
    outline = _hull(length, beam, 0.26 if kind < 0.7 else 0.36)
    hull = c.pick(((58, 62, 70), (120, 50, 44), (44, 66, 96), (70, 74, 72)) if kind < 0.7 else ((236, 236, 234),))
    c.cast(c.shadow_low, f.at(outline), 6)
    c.fill(c.low, f.at(outline), tone(hull, 1))
    house = tone((238, 238, 234), 1)
    if kind < 0.4:
        c.fill(c.low, f.at(outline * (0.95, 0.8)), tone((120, 112, 104), 1))
        for x in np.arange(-a * 0.52, a * 0.7, length * 0.085):
            for y in (-0.5, 0.0, 0.5):
                if rng.random() < 0.86:
                    c.fill(c.low, f.at(box(length * 0.074, b * 0.46, x, y * b)), tone(c.pick(CARGO), 1.05))
        c.fill(c.low, f.at(box(length * 0.1, beam * 0.84, -a * 0.76)), house)
    elif kind < 0.7:
        deck = c.pick(((150, 66, 52), (92, 120, 98), (140, 96, 76)))
        c.fill(c.low, f.at(outline * (0.96, 0.82)), tone(deck, 1))
        c.line(c.low, f.at([[-a * 0.5, 0], [a * 0.78, 0]]), tone(deck, 1.5), 3)
        for x in np.linspace(-a * 0.4, a * 0.6, 5):
            c.line(c.low, f.at([[x, -b * 0.7], [x, b * 0.7]]), tone(deck, 0.7), 1)
        c.fill(c.low, f.at(box(length * 0.13, beam * 0.86, -a * 0.76)), house)
        c.fill(c.low, f.at(box(length * 0.05, beam * 0.3, -a * 0.8)), tone((190, 80, 50), 1))
    else:
        c.fill(c.low, f.at(outline * (0.95, 0.8)), tone((196, 206, 204), 1))
        c.fill(c.low, f.at(mirror([[a * 0.55, b * 0.5], [a * 0.4, b * 0.66], [-a * 0.8, b * 0.66]])), house)
        c.fill(c.low, f.at(box(length * 0.03, b * 1.2, a * 0.44)), tone((50, 60, 74), 1))
        c.fill(c.low, f.at(box(length * 0.1, b * 0.6, -a * 0.4)), tone((176, 56, 48), 1))
        for x in (-0.1, 0.1, 0.3):
            c.fill(c.low, f.at(box(length * 0.05, b * 0.9, a * x)), tone((214, 216, 212), 1))
    return True


def add_tank(c: Canvas, f: Frame, radius: float) -> bool:
    """A storage tank with a domed or a floating (sunk) roof; its box is upright, as a circle has no angle."""
    rng = c.rng
    if not c.shows(f, radius) or not c.place("storage-tank", Frame(f.x, f.y, 0).at(box(2 * radius, 2 * radius))):
        return False
    disc = ring(1.0, 0, 0, 48)
    sun = np.array(c.sun) / max(0.2, math.hypot(*c.sun))
    paint = c.pick(((236, 236, 232), (226, 226, 220), (200, 204, 204), (186, 192, 196), (206, 196, 176)))
    centre = np.array([f.x, f.y])
    c.cast(c.shadow_high, disc * radius + centre, radius * 0.9)
    c.fill(c.high, disc * radius + centre, tone(paint, 0.66))
    if rng.random() < 0.4:
        c.fill(c.high, disc * (radius * 0.94) + centre, tone(paint, 1.02))
        c.fill(c.high, disc * (radius * 0.84) + centre, tone(paint, 0.5))
        c.fill(c.high, disc * (radius * 0.76) + centre + sun * radius * 0.08, tone(paint, 0.86))
        return True
    for step, light in ((0.0, 0.9), (0.08, 0.97), (0.16, 1.02), (0.24, 1.07)):
        c.fill(c.high, disc * (radius * (0.94 - 2.2 * step)) + centre - sun * radius * step, tone(paint, light))
    spokes = f.at(np.array([[0, 0], [radius * 0.9, 0]]))
    c.line(c.high, spokes, tone(paint, 0.72), 2)
    c.line(c.high, ring(radius * 0.9, f.x, f.y, 32), tone(paint, 0.8), 1, True)
    c.fill(c.high, ring(max(1.5, radius * 0.1), f.x, f.y, 10), tone(paint, 0.7))
    return True


def add_court(c: Canvas, f: Frame, name: str, length: float) -> bool:
    """A sports court with its markings: tennis-court, basketball-court or soccer-ball-field."""
    width = length * {"tennis-court": 0.5, "basketball-court": 0.56, "soccer-ball-field": 0.65}[name]
    if not c.place(name, f.at(box(length, width))):
        return False
    rng, g = c.rng, c.ground
    white = (236, 238, 234, 20)

    def draw(points: object, thickness: int = 2, closed: bool = False) -> None:
        c.line(g, f.at(np.asarray(points, np.float64) * (length, width)), white, thickness, closed)

    if name == "tennis-court":
        outer = c.pick(((58, 112, 74), (52, 104, 82), (150, 82, 58), (66, 120, 88)))
        inner = c.pick(((46, 84, 138), (60, 100, 150), (176, 98, 66), (88, 64, 120)))
        c.fill(g, f.at(box(length, width)), tone(outer, 1, 40))
        c.fill(g, f.at(box(length * 0.68, width * 0.64)), tone(inner, 1, 40))
        draw(box(0.68, 0.64), 2, True)
        for y in (-0.24, 0.24):
            draw([[-0.34, y], [0.34, y]], 1)
        for x in (-0.18, 0.18):
            draw([[x, -0.24], [x, 0.24]], 1)
        draw([[-0.18, 0], [0.18, 0]], 1)
        c.line(c.low, f.at(np.array([[0, -0.38], [0, 0.38]]) * (length, width)), (38, 42, 44, 255), 2)
    elif name == "basketball-court":
        floor = c.pick(((196, 140, 92), (184, 124, 80), (152, 150, 146), (176, 104, 84)))
        key = c.pick(((176, 62, 48), (52, 92, 150), (70, 120, 84), (120, 50, 60)))
        c.fill(g, f.at(box(length, width)), tone(floor, 0.9, 40))
        c.fill(g, f.at(box(length * 0.93, width * 0.88)), tone(floor, 1.06, 40))
        draw(box(0.93, 0.88), 2, True)
        draw([[0, -0.44], [0, 0.44]])
        c.fill(g, f.at(ring(width * 0.13)), tone(key, 1, 40))
        c.line(g, f.at(ring(width * 0.13)), white, 1, True)
        for side in (-1, 1):
            c.fill(g, f.at(box(length * 0.2, width * 0.3, side * length * 0.365)), tone(key, 1, 40))
            c.line(g, f.at(box(length * 0.2, width * 0.3, side * length * 0.365)), white, 1, True)
            t = np.linspace(-math.pi / 2, math.pi / 2, 17)
            arc = np.stack([side * (0.465 * length - width * 0.4 * np.cos(t)), width * 0.4 * np.sin(t)], 1)
            c.line(g, f.at(arc), white, 1)
    else:
        grass = c.pick(((84, 126, 62), (74, 118, 66), (96, 134, 70)))
        stripes = int(rng.integers(7, 12))
        for i in range(stripes):
            strip = box(length / stripes + 0.3, width, (i + 0.5) / stripes * length - length / 2)
            c.fill(g, f.at(strip), tone(grass, 0.93 if i % 2 else 1.09, 70))
        draw(box(0.94, 0.9), 2, True)
        draw([[0, -0.45], [0, 0.45]])
        c.line(g, f.at(ring(width * 0.14)), white, 2, True)
        for side in (-1, 1):
            draw(box(0.14, 0.56, side * 0.4), 2, True)
            draw(box(0.05, 0.26, side * 0.445), 1, True)
            c.line(c.low, f.at(np.array([[0.475, -0.06], [0.475, 0.06]]) * (side * length, width)), (*white[:3], 255), 2)
    return True


def add_pool(c: Canvas, f: Frame, length: float, width: float) -> bool:
    """A swimming pool with its rim; the large ones have lanes."""
    if not c.place("swimming-pool", f.at(box(length, width))):
        return False
    water = c.pick(((66, 178, 204), (84, 192, 210), (52, 158, 200), (96, 200, 206)))
    c.fill(c.ground, f.at(box(length + 9, width + 9)), tone((206, 198, 182), 1, 60))
    c.fill(c.ground, f.at(box(length, width)), tone((232, 232, 226), 1, 20))
    c.fill(c.ground, f.at(box(length - 4, width - 4)), tone(water, 0.86, 60))
    c.fill(c.ground, f.at(box((length - 4) * 0.55, width - 6, -(length - 4) * 0.18)), tone(water, 1.06, 60))
    if length > 44:
        for y in np.arange(-width / 2 + 6, width / 2 - 4, 4.5):
            c.line(c.ground, f.at([[-length / 2 + 3, y], [length / 2 - 3, y]]), tone((40, 110, 160), 1, 40), 1)
    return True


def add_pier(c: Canvas, f: Frame, length: float, width: float) -> bool:
    """A pier (class harbor) whose root is f and which runs along its heading over the water."""
    body = box(length, width, length / 2)
    if not c.place("harbor", f.at(body)):
        return False
    rng = c.rng
    paint = c.pick(((176, 170, 158), (160, 150, 134), (150, 122, 92), (188, 184, 176)))
    c.cast(c.shadow_low, f.at(body), 4)
    c.fill(c.foam, f.at(box(length, width + 3, length / 2 + 1)), 50)
    c.fill(c.low, f.at(body), tone(paint, 0.72))
    c.fill(c.low, f.at(box(length - 1.5, width - 3, length / 2)), tone(paint, 1))
    for x in np.arange(6, length - 2, 7):
        c.line(c.low, f.at([[x, 2 - width / 2], [x, width / 2 - 2]]), tone(paint, rng.uniform(0.88, 0.97)), 1)
    for x in np.arange(10, length, 18):
        for y in (-1, 1):
            c.fill(c.low, f.at(box(2.4, 2.4, x, y * (width / 2 - 2.4))), tone((60, 58, 56), 1))
    return True
