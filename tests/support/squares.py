"""Detections and objects of images in few words, for the metrics."""

import numpy as np


def square(x: float, y: float = 0.0, width: float = 10.0, height: float = 10.0) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def found(*rows: tuple[np.ndarray, float, int]) -> tuple[list, list, list]:
    """Detections of one image from (corners, score, label)."""
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def real(*rows: tuple[np.ndarray, int, int]) -> tuple[list, list, list]:
    """Objects of one image from (corners, label, difficult)."""
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def random_scene(rng: np.random.Generator, classes: int, images: int = 6) -> tuple[list, list]:
    """Rotated, slightly skewed quadrilaterals, crowded enough that they overlap; detections scatter around them."""

    def shapes(centres: np.ndarray, sizes: np.ndarray, angles: np.ndarray) -> np.ndarray:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sizes[:, None] / 2
        cos, sin = np.cos(angles), np.sin(angles)
        turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
        return corners @ turn + centres[:, None] + rng.uniform(-1.5, 1.5, (len(centres), 4, 2))

    detections, objects = [], []
    for _ in range(images):
        n = int(rng.integers(0, 25))
        centres, sizes = rng.uniform(0, 120, (n, 2)), rng.uniform(12, 40, (n, 2))
        angles, labels = rng.uniform(-3, 3, n), rng.integers(0, classes, n)
        objects.append((shapes(centres, sizes, angles), labels, rng.integers(0, 5, n) == 0))
        again = rng.integers(0, n, 2 * n) if n else np.zeros(0, np.int64)
        centres = centres[again] + rng.normal(0, 2, (len(again), 2))
        moved = shapes(centres, sizes[again] * rng.uniform(0.85, 1.15, (len(again), 2)), angles[again])
        guess = np.where(rng.random(len(again)) < 0.8, labels[again], rng.integers(0, classes, len(again)))
        detections.append((moved, np.round(rng.random(len(again)), 1), guess))  # rounded: many ties
    return detections, objects
