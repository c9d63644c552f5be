"""The canvas of a synthetic aerial scene: layers, shadows, labels, and how they become an image.

The layers have twice the resolution, so that everything lies at sub-pixel positions with smooth edges: `ground` is
colour plus texture strength; `low` (vehicles, boats) and `high` (buildings, planes, tanks, trees) are premultiplied
colour plus coverage, with one shadow mask under each. Coordinates are continuous pixels of the finished image: pixel
i covers [i, i + 1).
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from rotanext.polygons import area_inside, rotation, signed_area, upright

Colour = tuple[int, int, int]
SCALE = 2
_SHIFT = 4
# OpenCV's smooth outlines reach this far (pixels of the image) beyond the polygon; the labels follow.
_EDGE = 0.3


class Frame(NamedTuple):
    """A place and a heading (radians, clockwise): local x runs along it, local y to its right on the screen."""

    x: float
    y: float
    angle: float

    def at(self, points: object) -> np.ndarray:
        """Image coordinates `[K, 2]` of local points `[K, 2]`."""
        turned: np.ndarray = np.asarray(points, np.float64) @ rotation(self.angle).T
        return turned + np.array([self.x, self.y])

    def move(self, x: float, y: float, turn: float = 0.0) -> "Frame":
        """The frame at a local point, turned further."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return Frame(self.x + x * cos - y * sin, self.y + x * sin + y * cos, self.angle + turn)


def box(length: float, width: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Corners `[4, 2]` of a rectangle about a local point."""
    a, b = length / 2, width / 2
    return upright((x - a, y - b), (x + a, y + b))


def ring(radius: float, x: float = 0.0, y: float = 0.0, count: int = 36) -> np.ndarray:
    """Points `[count, 2]` of a circle about a local point."""
    t = np.arange(count) * (2 * math.pi / count)
    return np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], 1)


def mirror(points: object) -> np.ndarray:
    """A symmetrical outline from its right half, given from front to back."""
    half = np.asarray(points, np.float64)
    return np.concatenate([half, half[::-1] * (1, -1)])


def tone(colour: Colour, factor: float, last: int = 255) -> tuple[int, int, int, int]:
    """The colour made lighter or darker, with its fourth channel (coverage, or texture strength on the ground)."""
    r, g, b = (int(min(255, max(0, c * factor))) for c in colour)
    return r, g, b, last


@dataclass
class Canvas:
    """Layers and labels of one scene while it is drawn; `sun` is the shadow's shift `(dx, dy)` per unit of height."""

    rng: np.random.Generator
    height: int
    width: int
    sun: tuple[float, float]
    scale: float
    labels: bool = True
    corners: list[np.ndarray] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    difficult: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        fine, plain = (self.height * SCALE, self.width * SCALE, 4), (self.height, self.width)
        self.ground, self.low, self.high = (np.zeros(fine, np.uint8) for _ in range(3))
        self.shadow_low, self.shadow_high, self.foam, self.water, self.taken = (np.zeros(plain, np.uint8) for _ in range(5))
        self.trees = [_tree_sprite(self.rng, self.sun) for _ in range(6)]

    def pick(self, choices: tuple[Colour, ...]) -> Colour:
        """One of the colours, slightly varied."""
        r, g, b = choices[int(self.rng.integers(len(choices)))]
        d = int(self.rng.integers(-9, 10))
        return max(0, min(255, r + d)), max(0, min(255, g + d)), max(0, min(255, b + d))

    def fill(self, layer: np.ndarray, points: np.ndarray, colour: tuple[int, ...] | int) -> None:
        """Fill the outline `[K, 2]` (image coordinates) on a layer or mask."""
        cv2.fillPoly(layer, [_fixed(layer, points)], colour, cv2.LINE_AA, _SHIFT)

    def line(
        self, layer: np.ndarray, points: np.ndarray, colour: tuple[int, ...], thickness: int = 2, closed: bool = False
    ) -> None:
        """Draw a line through the points; the thickness counts in the layer's own (half) pixels."""
        cv2.polylines(layer, [_fixed(layer, points)], closed, colour, thickness, cv2.LINE_AA, _SHIFT)

    def cast(self, mask: np.ndarray, points: np.ndarray, height: float, convex: bool = True) -> None:
        """Throw the shadow of an outline `height` tall (of a thin one at that height, if not convex)."""
        moved = points + np.array(self.sun) * height
        if convex:
            moved = np.asarray(cv2.convexHull(np.concatenate([points, moved]).astype(np.float32))[:, 0], np.float64)
        self.fill(mask, moved, 255)

    def shows(self, f: Frame, radius: float) -> bool:
        """Whether the square about a frame's origin meets the image."""
        return -radius < f.x < self.width + radius and -radius < f.y < self.height + radius

    def sees(self, points: np.ndarray) -> bool:
        """Whether the bounding box of the points meets the image."""
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        return bool(x1 > 0 and y1 > 0 and x0 < self.width and y0 < self.height)

    def inside(self, corners: np.ndarray) -> float:
        """The share of the quadrilateral's area that lies in the image."""
        (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
        if x0 >= 0 and y0 >= 0 and x1 <= self.width and y1 <= self.height:
            return 1.0
        if not self.sees(corners):
            return 0.0
        part = area_inside(corners[None], self.width, self.height)[0]
        return float(part) / max(1e-6, abs(float(signed_area(corners))))

    def claim(self, points: np.ndarray) -> bool:
        """Take a convex area for one thing; False, and nothing taken, where something stands or nothing is seen."""
        if not self.sees(points):
            return False
        (x0, y0), (x1, y1) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(self.width, x1 + 1), min(self.height, y1 + 1)
        patch = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillConvexPoly(patch, _fixed(patch, points - (x0, y0)), 1, cv2.LINE_8, _SHIFT)
        window = self.taken[y0:y1, x0:x1]
        core = cv2.erode(patch, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
        if cv2.bitwise_and(window, core).any():
            return False
        window |= patch
        return True

    def free(self, x: float, y: float, radius: float) -> bool:
        """Whether nothing stands in the square about a point."""
        x0, x1, y0, y1 = int(x - radius), int(x + radius) + 1, int(y - radius), int(y + radius) + 1
        return not self.taken[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)].any()

    def place(self, name: str, corners: np.ndarray, difficult: bool = False) -> bool:
        """Label an object `[4, 2]` if there is room for it; False, and it must not be drawn, where there is none.

        An object cut by the border needs half of itself inside, and is difficult below three quarters.
        """
        share = self.inside(corners)
        if not self.labels or share < 0.5 or not self.claim(corners):
            return False
        self.corners.append(_grown(corners, _EDGE))
        self.names.append(name)
        self.difficult.append(int(difficult or share < 0.75))
        return True

    def stamp(self, sprite: np.ndarray, x: float, y: float) -> None:
        """Lay a premultiplied sprite on the `high` layer about a point."""
        rows, columns = sprite.shape[:2]
        left, top = round(x * SCALE - columns / 2), round(y * SCALE - rows / 2)
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(self.high.shape[1], left + columns), min(self.high.shape[0], top + rows)
        if x1 > x0 and y1 > y0:
            part = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
            below = self.high[y0:y1, x0:x1]
            below[:] = part + (below * ((255 - part[..., 3:]).astype(np.uint16)) // 255).astype(np.uint8)


def _grown(corners: np.ndarray, by: float) -> np.ndarray:
    """The rectangle `[4, 2]` with every side moved outwards."""
    along, across = corners[1] - corners[0], corners[3] - corners[0]
    along, across = along * (by / np.linalg.norm(along)), across * (by / np.linalg.norm(across))
    return corners + np.array([-along - across, along - across, along + across, across - along])


def _fixed(layer: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Fixed-point coordinates for OpenCV, whose integers are pixel centres."""
    scale = SCALE if layer.ndim == 3 else 1
    one = 1 << _SHIFT
    return (points * (scale * one) + (0.5 - one / 2)).astype(np.int32)


def _tree_sprite(rng: np.random.Generator, sun: tuple[float, float]) -> np.ndarray:
    """A tree's crown from above, lit from where the shadows point away from: uint8 `[S, S, 4]`, premultiplied."""
    radius = int(rng.integers(11, 30))
    size = 2 * radius + 3
    crown = np.zeros((size, size), np.uint8)
    for _ in range(10):
        t, r = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.2, 0.58)
        centre = (round(size / 2 + r * math.cos(t)), round(size / 2 + r * math.sin(t)))
        cv2.circle(crown, centre, max(2, round(radius * rng.uniform(0.25, 0.42))), 255, -1, cv2.LINE_AA)
    cover = cv2.GaussianBlur(crown, (0, 0), 0.8).astype(np.float32) / 255
    bumps = cv2.GaussianBlur(rng.standard_normal((size, size), np.float32), (0, 0), max(1.2, radius / 9))
    dome = cv2.GaussianBlur(cover, (0, 0), radius / 3) * 3 + 0.55 * bumps / max(1e-6, float(bumps.std()))
    slope_x, slope_y = cv2.Sobel(dome, cv2.CV_32F, 1, 0), cv2.Sobel(dome, cv2.CV_32F, 0, 1)
    light = np.clip(1 + 0.28 * (slope_x * sun[0] + slope_y * sun[1]) / max(0.2, math.hypot(*sun)), 0.45, 1.7)
    green = np.array([58, 82, 46]) * rng.uniform(0.7, 1.2) + rng.uniform(-10, 12, 3) * (1, 0.5, 0.5)
    colour = np.clip(light[..., None] * green, 0, 255) * cover[..., None]
    return np.concatenate([colour, cover[..., None] * 255], 2).astype(np.uint8)


def noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, ...]) -> np.ndarray:
    """Smooth noise float32 `[H, W]` of unit variance or so: one octave per cell size in pixels, equally strong."""
    # Large cells need no full resolution on the way.
    coarse = 1 << max(0, int(math.log2(min(cells) / 4)))
    height, width = math.ceil(size[0] / coarse), math.ceil(size[1] / coarse)
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        shape = (math.ceil(size[0] / cell) + 2, math.ceil(size[1] / cell) + 2)
        grid = rng.standard_normal(shape, np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC if cell > 8 else cv2.INTER_LINEAR)
    total *= np.float32(1.2 / math.sqrt(len(cells)))
    return total if coarse == 1 else np.asarray(cv2.resize(total, size[::-1]), np.float32)


def _ripple(rng: np.random.Generator, coarse: np.ndarray) -> np.ndarray:
    """Wind waves float32 `[H, W]`, about -1 to 1: three crossing trains whose phase drifts."""
    height, width = coarse.shape
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    wind, total = rng.uniform(0, 2 * math.pi), np.zeros_like(coarse)
    for turn, length in ((0.0, rng.uniform(9, 14)), (0.5, rng.uniform(5, 8)), (-0.7, rng.uniform(4, 6))):
        k = 2 * math.pi / length
        phase = x * np.float32(k * math.cos(wind + turn)) + y * np.float32(k * math.sin(wind + turn))
        phase += np.float32(2.2) * coarse
        total += np.sin(phase, out=phase)
    return total * np.float32(0.4)


def _over(image: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """A premultiplied layer, reduced to the image's resolution, over the image."""
    height, width = image.shape[:2]
    small = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA)
    through = cv2.cvtColor(255 - small[..., 3], cv2.COLOR_GRAY2RGB)
    return cv2.add(cv2.multiply(image, through, scale=1 / 255), cv2.cvtColor(small, cv2.COLOR_RGBA2RGB))


def _shade(image: np.ndarray, mask: np.ndarray, depth: float) -> np.ndarray:
    """Darken where the shadow mask is set, blue least, with a soft edge."""
    soft = cv2.GaussianBlur(mask, (0, 0), 0.9)
    steps = np.arange(256) * depth
    light = [cv2.LUT(soft, (255 - steps * share).astype(np.uint8)) for share in (1.0, 0.97, 0.88)]
    return cv2.multiply(image, cv2.merge(light), scale=1 / 255)


def _wet(c: Canvas, image: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The image (float32) with waves, shallows and foam on its water."""
    wet = c.water.astype(np.float32) / 255
    shallow = np.clip(2 - 2 * cv2.blur(wet, (71, 71), borderType=cv2.BORDER_REPLICATE), 0, 1) * wet
    wave = 1 + wet * (_ripple(c.rng, coarse) * 0.06 + 0.05 * coarse + 0.02 * fine)
    foam = cv2.GaussianBlur(c.foam, (0, 0), 1.1).astype(np.float32) / 255
    white = np.clip(foam * (0.85 + 0.3 * fine), 0, 1) * wet
    keep = 1 - white
    channels = [
        (channel * wave + lift * shallow) * keep + bright * white
        for channel, lift, bright in zip(cv2.split(image), (16, 34, 24), (226, 234, 234), strict=True)
    ]
    return cv2.merge(channels)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Haze, exposure, colour cast, blur and grain of a satellite's camera (uint8 to uint8)."""
    size = (image.shape[0], image.shape[1])
    haze = rng.uniform(0, 0.15) * np.clip(0.6 + 0.3 * noise(rng, size, (260,)), 0, 1)
    clear = cv2.cvtColor((255 - 255 * haze).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    veil = cv2.LUT(255 - clear, (np.arange(256)[:, None] * np.array([0.77, 0.81, 0.855])).astype(np.uint8)[:, None])
    image = cv2.add(cv2.multiply(image, clear, scale=1 / 255), veil)
    cast, exposure, gamma = rng.uniform(0.97, 1.03, 3), rng.uniform(0.9, 1.1), rng.uniform(0.92, 1.12)
    curve = 255 * (np.arange(256) / 255)[:, None] ** gamma * exposure * cast
    image = cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8)[:, None])
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.72))
    grain = np.float32(rng.uniform(1.5, 4)) * rng.standard_normal(size, np.float32)
    bright, dark = (cv2.cvtColor(np.maximum(part, 0).astype(np.uint8), cv2.COLOR_GRAY2RGB) for part in (grain, -grain))
    return np.asarray(cv2.subtract(cv2.add(image, bright), dark), np.uint8)


def develop(c: Canvas) -> np.ndarray:
    """The finished image uint8 RGB `[H, W, 3]`: textured ground, water, shadows, objects, and the camera's share."""
    rng, size = c.rng, (c.height, c.width)
    small = cv2.resize(c.ground, size[::-1], interpolation=cv2.INTER_AREA)
    fine, coarse = noise(rng, size, (7, 2.2)), noise(rng, size, (150, 70, 34, 17))
    gain = small[..., 3].astype(np.float32) / 255
    patches = gain * gain * coarse
    texture = 1 + 0.12 * gain * fine + 0.085 * patches
    tint = cv2.merge([texture + 0.03 * patches, texture, texture - 0.02 * patches])
    ground = cv2.multiply(cv2.cvtColor(small, cv2.COLOR_RGBA2RGB).astype(np.float32), tint)
    if c.water.any():
        ground = _wet(c, ground, fine, coarse)
    image = np.clip(ground, 0, 255).astype(np.uint8)
    depth = rng.uniform(0.5, 0.68)
    image = _over(_shade(image, c.shadow_low, depth), c.low)
    image = _over(_shade(image, c.shadow_high, depth), c.high)
    return _photograph(rng, image)
