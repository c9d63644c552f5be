"""Choosing tiles for a short training: those that hold most objects, rare classes before common ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rotanext.data.dota import list_items, read_objects
from rotanext.errors import Problems

_ENOUGH = 8  # objects of one class in one tile; more add little
_START = 10  # as if so many objects of each class had been chosen already


def choose_tiles(counts: np.ndarray, number: int) -> np.ndarray:
    """Indices of `number` rows of `counts [tiles, classes]` (all, where there are fewer), in the order chosen.

    Greedy: each next tile is the one whose objects are worth most, an object being worth one over the number of its class in
    the tiles chosen so far; of equals the first.
    """
    capped = np.minimum(counts, _ENOUGH).astype(np.float64)
    chosen_objects = np.full(counts.shape[1], float(_START))
    left = np.ones(len(counts), bool)
    chosen = []
    for _ in range(min(number, len(counts))):
        value = np.where(left, capped @ (1 / chosen_objects), -1.0)
        best = int(value.argmax())
        left[best] = False
        chosen.append(best)
        chosen_objects += counts[best]
    return np.array(chosen, np.int64)


def thin_out(folder: Path, number: int, class_names: Sequence[str], background: float = 0.0) -> None:
    """Delete all but `number` of a DOTA folder's tiles: `background` is the share without objects, choose_tiles picks the rest."""
    items = [item for item in list_items(folder, Problems()) if item.label]
    column = {name: index for index, name in enumerate(class_names)}
    counts = np.zeros((len(items), len(column)), np.int64)
    for row, item in zip(counts, items, strict=True):
        assert item.label is not None
        for name in read_objects(item.label, Problems(), class_names, item.image).names:
            row[column[name]] += 1
    empty = np.flatnonzero(counts.sum(1) == 0)[: round(number * background)]
    full = np.flatnonzero(counts.sum(1) > 0)
    kept = {*empty.tolist(), *full[choose_tiles(counts[full], number - len(empty))].tolist()}
    for index, item in enumerate(items):
        if index not in kept:
            for path in (item.image, item.label):
                if path is not None:
                    path.unlink()
