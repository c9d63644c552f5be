"""From pixels to ground coordinates and back: affine, projective and thin-plate mappings, and the choice between them for GCPs.

Pixels are `[N, 2]` x, y from the image's top-left corner (the middle of the first pixel is 0.5, 0.5), as in the boxes, the DOTA
labels and GDAL. Ground coordinates are `[N, 2]` x, y in the units of a coordinate system. Everything is float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

GOOD_FIT = 0.5  # pixels: a simpler mapping is kept where it misses no GCP by more
ROUND_TRIP = 0.01  # pixels
_CHUNK = 1 << 22  # distances computed at once: 32 MB
_STEPS = 50


@dataclass(frozen=True, eq=False)
class Affine:
    """ground = matrix @ pixel + offset; matrix `[2, 2]`, rotation, shear and flips included."""

    matrix: np.ndarray
    offset: np.ndarray

    def forward(self, pixels: np.ndarray) -> np.ndarray:
        """Ground coordinates `[N, 2]` of pixels."""
        return pixels @ self.matrix.T + self.offset

    def backward(self, ground: np.ndarray) -> np.ndarray:
        """Pixels `[N, 2]` of ground coordinates."""
        with np.errstate(invalid="ignore"):  # from coordinates that are no numbers
            return (ground - self.offset) @ np.linalg.inv(self.matrix).T

    @property
    def invertible(self) -> bool:
        """Whether the matrix is finite and its pixels have an area."""
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.offset).all()):
            return False
        sides = np.linalg.norm(self.matrix, axis=0)
        return bool(abs(np.linalg.det(self.matrix)) > 1e-9 * sides[0] * sides[1] > 0)

    @classmethod
    def fit(cls, pixels: np.ndarray, ground: np.ndarray) -> Self:
        """The least-squares mapping through at least three GCPs that are not on a line."""
        centre, middle = pixels.mean(0), ground.mean(0)  # large offsets keep their digits
        solution = np.linalg.lstsq(pixels - centre, ground - middle, rcond=None)[0].T
        return cls(solution, middle - solution @ centre)


@dataclass(frozen=True, eq=False)
class Projective:
    """A plane seen in perspective: `to` and `back` `[3, 3]` between pixels and ground, each moved and scaled to about 1."""

    pixel: Affine  # to the local frame of the pixels
    ground: Affine  # to the local frame of the ground
    to: np.ndarray
    back: np.ndarray

    def forward(self, pixels: np.ndarray) -> np.ndarray:
        """Ground coordinates `[N, 2]` of pixels; NaN beyond the horizon."""
        return self.ground.backward(_project(self.to, self.pixel.forward(pixels)))

    def backward(self, ground: np.ndarray) -> np.ndarray:
        """Pixels `[N, 2]` of ground coordinates; NaN for what lies behind the camera."""
        return self.pixel.backward(_project(self.back, self.ground.forward(ground)))

    @classmethod
    def fit(cls, pixels: np.ndarray, ground: np.ndarray) -> Self:
        """The direct linear transform of at least four GCPs, in moved and scaled frames (Hartley, 1997)."""
        frames = _local_frame(pixels), _local_frame(ground)
        (x, y), (u, v) = frames[0].forward(pixels).T, frames[1].forward(ground).T
        one, zero = np.ones_like(x), np.zeros_like(x)
        rows = [[x, y, one, zero, zero, zero, -u * x, -u * y, -u], [zero, zero, zero, x, y, one, -v * x, -v * y, -v]]
        system = np.concatenate([np.stack(row, 1) for row in rows])
        to = np.linalg.svd(system)[2][-1].reshape(3, 3)
        # The middle of the GCPs is in front of the camera, on both sides.
        to = to / to[2, 2]
        back = np.linalg.inv(to)
        return cls(*frames, to, back / back[2, 2])


@dataclass(frozen=True, eq=False)
class Spline:
    """The thin-plate spline through all GCPs (Duchon, 1977), its inverse by Newton's method.

    nodes `[G, 2]` in the local frame of the pixels; weights `[G + 3, 2]`, the last three an affine part (1, x, y).
    """

    pixel: Affine
    ground: Affine
    nodes: np.ndarray
    weights: np.ndarray
    start: Affine

    def forward(self, pixels: np.ndarray) -> np.ndarray:
        """Ground coordinates `[N, 2]` of pixels."""
        local = self.pixel.forward(pixels)
        return self.ground.backward(np.concatenate([self._bend(part)[0] for part in self._parts(local)]))

    def backward(self, ground: np.ndarray) -> np.ndarray:
        """Pixels `[N, 2]` of ground coordinates; NaN where the iteration finds none."""
        local = self.pixel.forward(self.start.backward(ground))
        target = self.ground.forward(ground)
        wanted = self._parts(target)
        return self.pixel.backward(np.concatenate([self._solve(a, b) for a, b in zip(self._parts(local), wanted, strict=True)]))

    @classmethod
    def fit(cls, pixels: np.ndarray, ground: np.ndarray) -> Self:
        """Solve for the weights; the GCPs' pixels are distinct and not on a line."""
        frames = _local_frame(pixels), _local_frame(ground)
        nodes, count = frames[0].forward(pixels), len(pixels)
        system = np.zeros((count + 3, count + 3))
        system[:count, :count] = _kernel(nodes[:, None] - nodes)[0]
        system[:count, count:] = np.column_stack([np.ones(count), nodes])
        system[count:, :count] = system[:count, count:].T
        weights = np.linalg.solve(system, np.concatenate([frames[1].forward(ground), np.zeros((3, 2))]))
        return cls(*frames, nodes, weights, Affine.fit(pixels, ground))

    def _parts(self, points: np.ndarray) -> list[np.ndarray]:
        return np.array_split(points, max(1, -(-len(points) * len(self.nodes) // _CHUNK)))

    def _bend(self, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `[N, 2]` and derivatives `[N, 2, 2]` (of each value, by x and y) in the local frames."""
        difference = local[:, None] - self.nodes
        kernel, slope = _kernel(difference)
        bent, plane = self.weights[:-3], self.weights[-3:]
        values = kernel @ bent + plane[0] + local @ plane[1:]
        return values, np.einsum("ng,ngd,gv->nvd", slope, difference, bent) + plane[1:].T

    def _solve(self, local: np.ndarray, target: np.ndarray) -> np.ndarray:
        step = np.full_like(local, np.inf)
        with np.errstate(all="ignore"):
            for _ in range(_STEPS):
                values, slopes = self._bend(local)
                (a, b), (c, d) = np.moveaxis(slopes, 0, -1)
                u, v = (values - target).T
                step = np.stack([d * u - b * v, a * v - c * u], 1) / (a * d - b * c)[:, None]
                local = local - step
                if not (np.abs(step) > 1e-12).any():
                    break
        return np.where((np.abs(step) < 1e-9).all(1, keepdims=True), local, np.nan)


Mapping = Affine | Projective | Spline


def fit_gcps(pixels: np.ndarray, ground: np.ndarray, size: tuple[int, int]) -> tuple[Mapping, float] | None:
    """The simplest mapping that fits GCPs `[G, 2]` of an image of this width and height, and its largest miss in pixels.

    Affine where it misses no GCP by more than `GOOD_FIT` pixels; otherwise projective (exact for four GCPs: an oblique image of
    flat ground) by the same limit; otherwise the thin-plate spline, which meets every GCP. A mapping counts only where it comes
    back within `ROUND_TRIP` pixels all over the image; where none does (a GCP on the wrong side), the affine one stays. None for
    fewer than three GCPs, or all on a line.
    """
    pixels, ground = _distinct(pixels, ground)
    if len(pixels) < 3:
        return None
    affine = Affine.fit(pixels, ground)
    if not affine.invertible or np.linalg.matrix_rank(pixels - pixels.mean(0), tol=1e-6 * np.ptp(pixels)) < 2:
        return None
    miss = _miss(affine, pixels, ground)
    if miss <= GOOD_FIT:
        return affine, miss
    for mapping in _bent(pixels, ground):
        limit = GOOD_FIT if isinstance(mapping, Projective) else ROUND_TRIP
        found = _miss(mapping, pixels, ground)
        if found <= limit and round_trip(mapping, size) <= ROUND_TRIP:
            return mapping, found
    return affine, miss


def round_trip(mapping: Mapping, size: tuple[int, int]) -> float:
    """The largest distance in pixels between points all over an image (width, height) and where they come back to."""
    across = [np.linspace(0, length, 33) for length in size]
    points = np.stack(np.meshgrid(*across), -1).reshape(-1, 2)
    distance = np.linalg.norm(mapping.backward(mapping.forward(points)) - points, axis=1)
    return float(np.nan_to_num(distance, nan=np.inf).max())


def _bent(pixels: np.ndarray, ground: np.ndarray) -> Iterator[Projective | Spline]:
    for kind in (Projective, Spline):
        if len(pixels) >= 4:
            try:
                yield kind.fit(pixels, ground)
            except np.linalg.LinAlgError:
                continue


def _miss(mapping: Mapping, pixels: np.ndarray, ground: np.ndarray) -> float:
    distance = np.linalg.norm(mapping.backward(ground) - pixels, axis=1)
    return float(np.nan_to_num(distance, nan=np.inf).max())


def _distinct(pixels: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GCPs at different pixels; several at one pixel become their mean."""
    finite = np.isfinite(pixels).all(1) & np.isfinite(ground).all(1)
    found, index = np.unique(pixels[finite], axis=0, return_inverse=True)
    sums = np.zeros_like(found)
    np.add.at(sums, index.ravel(), ground[finite])
    return found, sums / np.bincount(index.ravel(), minlength=len(found))[:, None]


def _local_frame(points: np.ndarray) -> Affine:
    """Moves and scales points to a middle of 0 and a size of about 1."""
    centre = points.mean(0)
    scale = 1 / max(float(np.abs(points - centre).max()), 1e-300)
    return Affine(np.eye(2) * scale, -centre * scale)


def _project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y, w = matrix @ np.column_stack([points, np.ones(len(points))]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(w[:, None] > 0, np.stack([x, y], 1) / w[:, None], np.nan)


def _kernel(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """r² log r² of offsets `[..., 2]`, and its derivative by r² doubled (times the offset: the gradient); 0 at r = 0."""
    square = (difference**2).sum(-1)
    logarithm = np.log(np.where(square > 0, square, 1.0))
    return square * logarithm, np.where(square > 0, 2 * (logarithm + 1), 0.0)
