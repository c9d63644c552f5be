"""Ground control points of an image of 800 x 600 pixels, and mappings they may be of: a plane, an oblique and a curved image."""

import numpy as np

SIZE = (800, 600)
CORNERS = np.array([[0.0, 0], [800, 0], [800, 600], [0, 600]])
GRID = np.stack(np.meshgrid(np.linspace(0, 800, 6), np.linspace(0, 600, 6)), -1).reshape(-1, 2)


def plane(pixels: np.ndarray) -> np.ndarray:
    return pixels @ [[0.5, 0.2], [0.2, -0.5]] + (5e5, 5e6)


def oblique(pixels: np.ndarray) -> np.ndarray:
    x, y = pixels.T
    return np.stack([0.5 * x + 30, 300 - 0.4 * y], 1) / (1 - 0.001 * y)[:, None] + (5e5, 5e6)


def curved(pixels: np.ndarray) -> np.ndarray:
    x, y = pixels.T / 800
    return np.stack([5e5 + 400 * x + 40 * x**2 + 20 * np.sin(3 * y), 5e6 - 400 * y + 50 * x * y - 30 * y**3], 1)
