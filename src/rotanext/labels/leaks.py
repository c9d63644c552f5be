"""Images that are in a data set twice, or both in training and in validation: by name, by file and by pixels."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from rotanext.data.tiles import scene_of_tile
from rotanext.errors import UserError
from rotanext.images.reading import image_size
from rotanext.images.scenes import read_pixels
from rotanext.labels.dataset import LabelledImage, LabelSet
from rotanext.labels.findings import Finding
from rotanext.system.progress import Track, untracked

_COPY = re.compile(r"\.rf\.[0-9a-f]{20,}$")  # what Roboflow adds to each augmented copy
_COARSE, _FINE = 16, 64  # sides of the small grey images that are compared: of all, and of those found alike
# Root mean square of the differences, in grey levels, below which two of them are one image. On the parcels of docs/results.md:
# JPEG of quality 60 and half the size leave up to 0.16 and 0.36, two photographs of one empty belt at least 0.33 and 0.76.
_ALIKE = 0.5
_PLAIN = 6.0  # standard deviation below which an image shows too little to be told from another
_LARGEST = 50_000_000  # pixels; larger images are compared by their files alone
_BLOCK = 2048
_REMEMBERED = 4096  # images of 64 x 64

Look = np.ndarray | str | None  # see _look


def scene_of(name: str) -> str:
    """The image that a tile, or a copy by Roboflow, was made of."""
    return scene_of_tile(_COPY.sub("", name))


def find_leaks(data: LabelSet, val: LabelSet | None, pixels: bool = True, track: Track = untracked) -> Iterator[Finding]:
    """Tiles and copies of one scene by their names, identical files and, by their pixels, copies in other bytes.

    In training and validation, and files and copies in one set as well. `pixels` has all images decoded, which also finds those
    that cannot be: some 20 milliseconds for a tile of 1024 x 1024 pixels and core. `track(items, what, total)` shows how far it is.
    """
    scenes: dict[str, LabelledImage | Path] = {scene_of(image.stem): image.name for image in data.images}  # type: ignore[misc]
    plain = {image.stem for image in data.images}
    for image in val.images if val else []:
        if (scene := scene_of(image.stem)) in scenes:
            # Two whole images of one name may be of two places; equal ones are found below.
            alike = scene == image.stem and scene in plain
            kind = "same name in training and validation" if alike else "same scene in training and validation"
            yield Finding(kind, str(image.file or image.name), None, f"training has {scenes[scene]}", image)
    files = _files(data, val)
    same = _identical(files)
    for (path, _), (first, apart) in same.items():
        kind = "same image in training and validation" if apart else "same image twice"
        yield Finding(kind, str(path), None, f"the same as {first}")
    if pixels:
        yield from _copies([one for one in files if one not in same], track)


def _copies(files: list[tuple[Path, bool]], track: Track) -> Iterator[Finding]:
    """Images that show what an earlier one shows: shrunk to 16 x 16, and then 64 x 64, grey values they hardly differ."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # each holds a decoded image
        made = pool.map(_look, [path for path, _ in files])
        looks = list(track(made, "decoding", len(files)))
    rows: list[np.ndarray] = []
    shown: list[tuple[Path, bool]] = []
    for (path, training), look in zip(files, looks, strict=True):
        if isinstance(look, str):
            yield Finding("unreadable image", str(path), None, look)
        elif look is not None:
            rows.append(look)
            shown.append((path, training))
    fine = lru_cache(_REMEMBERED)(partial(_look, side=_FINE))  # decoded again: only images that are alike at 16 x 16
    for at, earlier in _alike_before(np.array(rows, np.float32).reshape(-1, _COARSE**2)):
        path, training = shown[at]
        first = next((other for other in earlier if _alike(fine(path), fine(shown[other][0]))), None)
        if first is not None:
            kind = "copy of an image" if training == shown[first][1] else "copy of an image in training and validation"
            yield Finding(kind, str(path), None, f"shows the same as {shown[first][0]}")


def _files(data: LabelSet, val: LabelSet | None) -> list[tuple[Path, bool]]:
    """The files of the images, and whether each is one to train on; those first."""
    sets = ((data, True), (val, False))
    found = [(p.file, training) for one, training in sets if one for p in one.images if p.file is not None and p.file.is_file()]
    return list(dict.fromkeys(found))


def _identical(files: list[tuple[Path, bool]]) -> dict[tuple[Path, bool], tuple[Path, bool]]:
    """For each file that holds the bytes of an earlier one: that one, and whether it is on the other side."""
    lengths = Counter(path.stat().st_size for path, _ in files)
    digests: dict[str, tuple[Path, bool]] = {}
    found: dict[tuple[Path, bool], tuple[Path, bool]] = {}
    for path, training in files:
        if lengths[path.stat().st_size] < 2:  # only files of equal length can be equal
            continue
        with path.open("rb") as file:
            key = hashlib.file_digest(file, "sha256").hexdigest()
        if key in digests:
            found[path, training] = (digests[key][0], digests[key][1] != training)
        else:
            digests[key] = (path, training)
    return found


def _look(path: Path, side: int = _COARSE) -> Look:
    """A small grey image as float32 `[side^2]`; None where it shows too little; what is wrong where it cannot be read."""
    try:
        width, height = image_size(path)
        if width * height > _LARGEST:
            return None
        grey = cv2.cvtColor(read_pixels(path), cv2.COLOR_RGB2GRAY)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    if min(grey.shape) > 8 * side:  # in bytes as long as rounding is far below what is compared
        grey = cv2.resize(grey, (8 * side, 8 * side), interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return small.reshape(-1) if small.std() >= _PLAIN else None


def _alike(one: Look, other: Look) -> bool:
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and float(((one - other) ** 2).mean()) < _ALIKE**2


def _alike_before(rows: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Each row that is like earlier ones, with all of these."""
    rows = rows - 128  # small numbers lose fewer digits
    squares = np.einsum("ij,ij->i", rows, rows)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        found: dict[int, list[int]] = {}
        for before in range(0, start + 1, _BLOCK):
            others = rows[before : before + _BLOCK]
            apart = squares[start : start + len(block), None] + squares[before : before + len(others)] - 2 * block @ others.T
            alike = apart < _ALIKE**2 * rows.shape[1]
            if before == start:
                alike = np.tril(alike, -1)
            for row, column in np.argwhere(alike).tolist():
                found.setdefault(start + row, []).append(before + column)
        yield from sorted(found.items())
