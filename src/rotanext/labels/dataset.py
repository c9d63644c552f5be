"""Labelled images in memory, whatever format they come from or go to, and the images' files."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from rotanext.errors import Problems, UserError, explain, shortened
from rotanext.images.reading import IMAGE_SUFFIXES, image_size
from rotanext.objects import Objects

LONGEST_NAME = 100  # characters of a class
_LONGEST_FILE = 180  # bytes of an image's name
_VALIDATION = ("val", "valid", "validation")


class Invalid(Exception):
    """What makes one item of a label file none: found, and what was expected."""

    def __init__(self, found: str, expected: str, advice: str = "Correct or remove it.") -> None:
        super().__init__(found)
        self.found, self.expected, self.advice = shortened(found), expected, advice


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image and its objects.

    name: of its file, with the ending where that is known, without folders. width and height: pixels, 0 where nobody knows them.
    scores `[N]` float64, NaN for objects without one. places: each object's line, or number in its file. file, label: where
    the image and its labels lie, if anywhere. subset: train, val, ... or "".
    """

    name: str
    width: int
    height: int
    objects: Objects
    scores: np.ndarray
    places: list[int]
    label: Path | None = None
    file: Path | None = None
    subset: str = ""

    @property
    def stem(self) -> str:
        """The name without an image's ending: what label files are called after."""
        return stem_of(self.name)

    def take(self, index: np.ndarray) -> "LabelledImage":
        """The image with only these of its objects (indices or a mask)."""
        places = [self.places[i] for i in np.arange(len(self.objects))[index]]
        return replace(self, objects=self.objects.take(index), scores=self.scores[index], places=places)


@dataclass
class LabelSet:
    """Labelled images, their classes in order, what reading them changed, and images that no label speaks of."""

    images: list[LabelledImage] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unlabelled: list[Path] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Objects in all images."""
        return sum(len(image.objects) for image in self.images)

    @property
    def subsets(self) -> list[str]:
        """The subsets that occur, sorted."""
        return sorted({image.subset for image in self.images})


@dataclass
class Shapes:
    """Objects of one image while they are read."""

    corners: list[np.ndarray] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    difficult: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def add(self, corners: np.ndarray, name: str, place: int, difficult: int = 0, score: float = float("nan")) -> None:
        """One more object: corners `[4, 2]`."""
        self.corners.append(corners)
        self.names.append(name)
        self.difficult.append(difficult)
        self.scores.append(score)
        self.places.append(place)

    def image(
        self, name: str, size: tuple[int, int], label: Path | None = None, file: Path | None = None, subset: str = ""
    ) -> LabelledImage:
        """The image with these objects."""
        objects = Objects(
            np.array(self.corners, np.float64).reshape(-1, 4, 2), self.names, np.array(self.difficult, np.int64).reshape(-1)
        )
        return LabelledImage(name, *size, objects, np.array(self.scores, np.float64), self.places, label, file, subset)


def stem_of(name: str) -> str:
    """An image's name without its ending; `P0001.v2` keeps its dot."""
    return name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix) and suffix.lower() in IMAGE_SUFFIXES else name


def is_validation(subset: str) -> bool:
    """Whether a subset is what others call val or valid."""
    return subset.lower() in _VALIDATION


class ImageFiles:
    """The images below some folders, found by the names that label files give them.

    Only what lies there is ever returned: a name with `..` or an absolute one leads nowhere else.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        self.used: set[Path] = set()
        for root in dict.fromkeys(roots):
            for path in _walk(root):
                self._by_name.setdefault(path.name, []).append(path)
                self._by_stem.setdefault(path.stem, []).append(path)

    def find(self, name: str, *folders: str) -> Path | None:
        """The file of an image called `name` (the ending may be missing or another).

        Folders before the name and those given (a subset's) choose among several; raises `Invalid` where they leave two.
        """
        parts = _parts(name)
        if not parts:
            return None
        found = self._by_name.get(parts[-1]) or self._by_stem.get(stem_of(parts[-1])) or []
        wanted = {*parts[:-1], *folders} - {""}
        fitting = [len(wanted.intersection(path.parts)) for path in found]
        best = [path for path, count in zip(found, fitting, strict=True) if count == max(fitting)]
        if len(best) > 1:
            raise Invalid(f"two images for {name}, {best[0]} and {best[1]}", "one", "Name the folder with --images.")
        self.used.update(best)
        return best[0] if best else None

    def unused(self) -> list[Path]:
        """Images that nobody asked for, sorted."""
        return sorted({path for paths in self._by_name.values() for path in paths} - self.used)


def _walk(root: Path) -> list[Path]:
    """Images in a folder and those below it, sorted; links to folders are not followed."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(folder) / name
            for name in sorted(names)
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")  # noqa: PTH122 - of many names
        ]
    return found


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def plain_name(name: str) -> str | None:
    """An image's name that is safe as a file's, its folders kept before slashes; None where there is none in it."""
    parts = _parts(name.strip())
    if name.strip().startswith(("/", "\\")) or (parts and parts[0].endswith(":")):
        parts = parts[-1:]  # a path on somebody's machine, whose folders say nothing
    whole = "/".join(parts)
    if not parts or not whole.isprintable() or len(os.fsencode(whole)) > _LONGEST_FILE or any(p.startswith(".") for p in parts):
        return None
    return whole


def finished(data: LabelSet, problems: Problems) -> LabelSet:
    """The set as every reader gives it: names without folders, each once in a subset, images sorted, all classes listed."""
    flat = _flattened(data)
    seen: set[tuple[str, str]] = set()
    kept = []
    for image in sorted(flat, key=lambda p: (p.subset, p.name)):
        key = (image.subset, image.stem)
        if key in seen:
            found = f"a second image named {image.stem}"
            problems.add(image.label or image.name, found, "one of each name", "Rename one; this one is left out.")
            continue
        seen.add(key)
        kept.append(image)
    known = dict.fromkeys(data.class_names)
    extra = sorted({name for image in kept for name in image.objects.names} - known.keys())
    return LabelSet(kept, [*known, *extra], data.notes, data.unlabelled)


def _flattened(data: LabelSet) -> list[LabelledImage]:
    """Images without folders in their names; where that would join two, the folders go into the name."""
    if not any("/" in image.name for image in data.images):
        return data.images
    short = [(image.subset, stem_of(image.name.rpartition("/")[2])) for image in data.images]
    alike = {key for key, count in Counter(short).items() if count > 1}
    images = [
        replace(image, name=image.name.replace("/", "_") if key in alike else image.name.rpartition("/")[2])
        for image, key in zip(data.images, short, strict=True)
    ]
    if not alike:
        return images
    data.notes.append("folders: images of several folders have the same name; their folders became part of it (a/1.jpg: a_1.jpg)")
    return images


def size_of(file: Path | None, claimed: tuple[int, int], label: Path, problems: Problems, stored: bool = False) -> tuple[int, int]:
    """An image's width and height: as its labels claim, else as its file says; (0, 0) where neither does.

    Both disagreeing goes to `problems` (labels of an image that was resized or turned): then the file counts. Raises `Invalid`
    for a photograph whose EXIF data turn it, unless labels are known to be of the pixels as stored: of other tools some show it
    turned, and their coordinates are of what they showed.
    """
    if file is None:
        return claimed
    if not stored and (turn := orientation(file)) != 1:
        found = f"{file.name}, a photograph that its EXIF data turn (orientation {turn}): labels may be of either way up"
        raise Invalid(found, "one that is upright as it is stored", "Turn its pixels (mogrify -auto-orient) and check its labels.")
    try:
        real = image_size(file)
    except UserError as error:
        problems.note(str(error))
        return claimed
    if claimed != (0, 0) and claimed != real:
        found = f"a size of {claimed[0]} x {claimed[1]} for {file.name}, which has {real[0]} x {real[1]}"
        problems.add(label, found, "the image's size", "Check that both belong together; the image's own size is used.")
    return real


def orientation(file: Path) -> int:
    """The EXIF orientation of a JPEG, 1 (upright as stored) to 8; 1 for all others and where it cannot be read."""
    if file.suffix.lower() not in (".jpg", ".jpeg"):
        return 1
    from PIL import Image

    try:
        with Image.open(file) as image:
            turn = image.getexif().get(274, 1)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError):
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def existing(source: Path, kind: str) -> Path:
    """The path, or `UserError` where nothing is there."""
    if not source.exists():
        raise UserError(explain(source, "nothing there", kind, "Check the path."))
    return source


def nothing_read(source: Path, expected: str, problems: Problems, advice: str = "Check the folder and --from.") -> UserError:
    """The error for a source that holds no label at all."""
    return UserError(explain(source, "no labelled image", expected, " ".join([advice, *problems.first[:1]])))


def subset_folders(root: Path, names: Sequence[str]) -> list[tuple[str, Path]]:
    """(subset, folder) of a data set: the folder itself where it holds any of `names`, else those folders in it that do."""
    if any((root / name).is_dir() for name in names):
        return [("", root)]
    if not root.is_dir():
        return []
    inner = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and any((folder / name).is_dir() for name in names)]
    return [(folder.name, folder) for folder in inner]
