"""DOTA folders (images/ + labelTxt/), their label files and their classes."""

import difflib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rotanext.data.folder_advice import folder_advice
from rotanext.errors import Problems, UserError, explain
from rotanext.images.reading import IMAGE_SUFFIXES
from rotanext.objects import FARTHEST, LEAST_AREA, Fault, Labelled, Objects
from rotanext.polygons import crosses, signed_area
from rotanext.system.files import write_bytes

_DOTA1_0 = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship",
    "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor", "swimming-pool",
    "helicopter",
)  # fmt: skip
# In the order of the published checkpoints' outputs.
CLASS_LISTS: dict[str, tuple[str, ...]] = {
    "dota1.0": _DOTA1_0,
    "dota1.5": (*_DOTA1_0, "container-crane"),
    "dota2.0": (*_DOTA1_0, "container-crane", "airport", "helipad"),
}

_LABEL_LINE = "`x1 y1 x2 y2 x3 y3 x4 y4 class difficult`"
LABEL_SUFFIXES = (".txt", ".geojson", ".gpkg")  # the first that an image has counts


class Item(NamedTuple):
    """One image of a data set and its label file (None in a data set without labels)."""

    stem: str
    image: Path
    label: Path | None


class Listed(NamedTuple):
    """What a data set's folder holds: images with a label file, sorted by stem, and label files of text without an image.

    In footprints without an image nothing can be read: where they lie in it is not known.
    """

    items: list[Item]
    alone: list[Path]


class Parsed(NamedTuple):
    """What a label file holds: its sound objects and the number of each one's line or feature, and all that is none.

    faults: number, what is wrong, and the class of what is well-formed otherwise.
    """

    path: Path
    objects: Objects
    places: list[int]
    faults: list[tuple[int, Fault, str | None]]


def read_objects(
    path: str | Path, problems: Problems, class_names: Sequence[str] | None = None, image: Path | None = None
) -> Objects:
    """Read a label file: DOTA text, or GeoJSON or GeoPackage footprints on the ground of the image `image` (extra `geo`).

    An empty file is an image without objects. In DOTA text, header lines, a byte-order mark, any line ends, tabs, blank lines and
    a missing difficulty are fine; footprints become rectangles of least area, see `read_footprints`. An object goes to `problems`
    where its line or feature is broken, its class is not among `class_names`, or its corners are crossed, without area or those of
    an earlier object of the same class. Raises `UserError` where the file cannot be read, or the image's place is not known.
    """
    return known_objects(parse_labels(Path(path), image), problems, class_names)


def parse_labels(path: Path, image: Path | None = None) -> Parsed:
    """Read a label file whatever its classes; raises like `read_objects`."""
    seen: dict[tuple[object, ...], str] = {}
    found: list[Labelled] = []
    entries = list(read_label_entries(path, image))
    shapes = iter(_shape_faults([entry for _, entry in entries if isinstance(entry, Labelled)]))
    places: list[int] = []
    faults: list[tuple[int, Fault, str | None]] = []
    for number, entry in entries:
        if isinstance(entry, Fault):
            faults.append((number, entry, None))
        elif fault := _fault(entry, next(shapes), seen):
            faults.append((number, fault, entry.name))
        else:
            seen[_identity(entry)] = f"{_unit(path)} {number}"
            found.append(entry)
            places.append(number)
    corners = np.array([item.corners for item in found], np.float64).reshape(-1, 4, 2)
    names = [sys.intern(item.name) for item in found]  # of a million objects each class once
    return Parsed(path, Objects(corners, names, np.array([item.difficult for item in found], np.int64)), places, faults)


def known_objects(parsed: Parsed, problems: Problems, class_names: Sequence[str] | None) -> Objects:
    """The objects of the given classes (all, if None); everything else goes to `problems`, in the order of the file."""
    known = None if class_names is None else set(class_names)
    of_known = np.array([known is None or name in known for name in parsed.objects.names], bool)
    faults = [
        (number, fault if name is None or known is None or name in known else _unknown(name, class_names or ()))
        for number, fault, name in parsed.faults
    ]
    faults += [(parsed.places[at], _unknown(parsed.objects.names[at], class_names or ())) for at in np.flatnonzero(~of_known)]
    for number, fault in sorted(faults, key=lambda one: one[0]):
        if _unit(parsed.path) == "line":
            problems.add(parsed.path, fault.found, fault.expected, fault.advice, number)
        else:
            advice = fault.advice.replace("line", "feature")
            problems.add(parsed.path, f"in feature {number} {fault.found}", fault.expected, advice)
    return parsed.objects if of_known.all() else parsed.objects.take(of_known)


def write_objects(path: str | Path, objects: Objects) -> None:
    """Write a DOTA label file with coordinates to 1e-4 pixel, at least one decimal (`218.0`); whole or not at all."""
    lines = []
    rounded = np.round(objects.corners.reshape(-1, 8), 4) + 0.0  # no "-0.0"
    for values, name, difficult in zip(rounded.tolist(), objects.names, objects.difficult.tolist(), strict=True):
        lines.append(f"{' '.join(map(str, values))} {name} {difficult}\n")
    write_bytes(path, "".join(lines).encode())


def inside(objects: Objects, width: int, height: int, problems: Problems, path: str | Path) -> Objects:
    """Drop the objects whose enclosing box does not touch the image; those that cross its edge stay as they are."""
    low, high = objects.corners.min(1), objects.corners.max(1)
    touches = ((high >= 0) & (low <= (width, height))).all(1)
    for i in np.flatnonzero(~touches):
        span = f"x {low[i, 0]:.0f}..{high[i, 0]:.0f}, y {low[i, 1]:.0f}..{high[i, 1]:.0f}"
        advice = "Check that the label belongs to this image."
        problems.add(path, f"a {objects.names[i]} at {span}", f"one that touches the {width} x {height} image", advice)
    return objects if touches.all() else objects.take(touches)


def list_items(root: str | Path, problems: Problems, labelled: bool = True) -> list[Item]:
    """Images of a data set with their label files, sorted by stem; `labelled=False` lists the images alone.

    An image without label file (unlike one whose file is empty), a label file (of LABEL_SUFFIXES) without image, and a second
    image or label file of a stem are left out through `problems`. Raises `UserError` where a folder is missing or empty, or
    nothing fits together.
    """
    if labelled:
        return list_folder(root, problems).items
    images = _first_of_each(_folder(Path(root), "images", IMAGE_SUFFIXES), "image named {}", problems)
    return [Item(stem, path, None) for stem, path in images.items()]


def list_folder(root: str | Path, problems: Problems) -> Listed:
    """The labelled images of `list_items`, and the label files of text that have no image; each folder is listed once."""
    root = Path(root)
    images = _first_of_each(_folder(root, "images", IMAGE_SUFFIXES), "image named {}", problems)
    labels = list_labels(root / "labelTxt", problems)
    for stem in sorted(images.keys() - labels.keys()):
        advice = "Add it; an empty file says that the image is background."
        problems.add(images[stem], "no label file for this image", f"{root / 'labelTxt' / stem}.txt", advice)
    alone = [path for stem, path in labels.items() if stem not in images]
    for path in alone:
        advice = "Add the image or remove the label file."
        problems.add(path, "no image for this label file", f"{root / 'images' / path.stem}.png (or jpg, tif, bmp)", advice)
    items = [Item(stem, path, labels[stem]) for stem, path in images.items() if stem in labels]
    if not items:
        advice = "Give each image and its label file the same name."
        raise UserError(explain(root, "no image that has a label file", "images/NAME.png and labelTxt/NAME.txt", advice))
    return Listed(items, [path for path in alone if path.suffix.lower() == ".txt"])


def list_labels(folder: Path, problems: Problems) -> dict[str, Path]:
    """The label file of each stem in a folder, sorted; a second one goes to `problems`, `UserError` where there is none."""
    files = _folder(folder.parent, folder.name, LABEL_SUFFIXES)
    return _first_of_each(sorted(files, key=lambda path: LABEL_SUFFIXES.index(path.suffix.lower())), "label file", problems)


def images_beside(labels: Path) -> dict[str, Path]:
    """The image of each stem in the folder `images` beside a folder of labels; empty where there is no such folder."""
    folder = labels.parent / "images"
    return _first_of_each(_files(folder, IMAGE_SUFFIXES), "image named {}", Problems()) if folder.is_dir() else {}


def _first_of_each(files: Iterable[Path], kind: str, problems: Problems) -> dict[str, Path]:
    """The first file of each stem, sorted by stem; the others go to `problems`, as a second one of that kind."""
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            advice = "Rename or remove one of them; this one is left out."
            second = f"a second {kind.format(path.stem)} beside {found[path.stem].name}"
            problems.add(path, second, "one for each name", advice)
        else:
            found[path.stem] = path
    return dict(sorted(found.items()))


def class_names_in(found: Iterable[Parsed], roots: Sequence[str | Path]) -> tuple[str, ...]:
    """The classes of all sound objects, sorted; `UserError` where there are none in the label files of `roots`."""
    names = {name for parsed in found for name in parsed.objects.names}
    if not names:
        where = ", ".join(str(Path(root) / "labelTxt") for root in roots)
        raise UserError(explain(where, "no valid object in any label file", f"lines {_LABEL_LINE}", "Check the labels."))
    return tuple(sorted(names))


def read_class_list(choice: str | Path, problems: Problems) -> tuple[str, ...]:
    """The classes of a name in `CLASS_LISTS`, or of a text file with one a line; `auto` is not for here: see `read_dataset`."""
    if str(choice) in CLASS_LISTS:
        return CLASS_LISTS[str(choice)]
    if str(choice) == "auto":
        found, lists = "a choice for training, where the names are those in the labels", ", ".join(CLASS_LISTS)
        raise UserError(explain("--classes auto", found, f"{lists} or a text file", "Give one of these, or leave out --classes."))
    path = Path(choice)
    if not path.is_file():
        near = difflib.get_close_matches(str(choice), ["auto", *CLASS_LISTS], 1)
        advice = f"Did you mean {near[0]}?" if near else "Check the name or the path."
        raise UserError(explain(path, "no such class list", f"{', '.join(CLASS_LISTS)}, a text file, or in training auto", advice))
    lines: dict[str, int] = {}
    for number, name in text_lines(path, problems):
        if name in lines or len(name.split()) > 1:
            fault = f"{name!r} a second time" if name in lines else f"{name!r}, with a space inside"
            problems.add(path, fault, "one class name a line, each once", "Remove or rename it.", number)
        else:
            lines[name] = number
    if not lines:
        raise UserError(explain(path, "no class names", "one class name a line", "Add them."))
    return tuple(lines)


def text_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Numbered lines with something on them; one that is not UTF-8 goes to `problems`."""
    for number, line in _lines(path):
        if isinstance(line, Fault):
            problems.add(path, line.found, line.expected, line.advice, number)
        else:
            yield number, line


def _lines(path: Path) -> Iterator[tuple[int, str | Fault]]:
    """Numbered lines with something on them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f"that it cannot be read ({error.strerror})"
        raise UserError(explain(path, reason, "a text file", "Check the path and its permissions.")) from error
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            yield number, Fault(f"bytes that are not UTF-8 ({line[:20]!r})", "UTF-8 text", "Save the file as UTF-8.")
            continue
        if text:
            yield number, text


def read_numbers(fields: Sequence[str]) -> list[float] | Fault:
    """Finite numbers of a plausible size, or what is wrong with the first that is not one."""
    values = []
    for field in fields:
        try:
            value = float(field.replace("_", "x"))  # Python reads 1_0 as 10; nobody else does
        except ValueError:
            return Fault(repr(field), "a number")
        if not math.isfinite(value):
            return Fault(field, "a finite number")
        if abs(value) > FARTHEST:
            return Fault(f"the coordinate {field}", f"at most {FARTHEST:.0f} pixels either side of 0")
        values.append(value)
    return values


def read_label_entries(path: Path, image: Path | None = None) -> Iterator[tuple[int, Labelled | Fault]]:
    """Every line or feature of a label file with its number, unjudged but for its form; raises like `read_objects`."""
    if path.suffix.lower() in LABEL_SUFFIXES[1:]:
        from rotanext.geo.footprints import read_footprints

        return (yield from read_footprints(path, image))
    for number, line in _lines(path):
        if isinstance(line, Fault):
            yield number, line
        elif not line.lower().startswith(("imagesource:", "gsd:")):
            yield number, _parse_object(line)


def _parse_object(line: str) -> Labelled | Fault:
    fields = line.split()
    if len(fields) not in (9, 10):
        return Fault(f"{len(fields)} fields", f"the ten of {_LABEL_LINE}")
    values = read_numbers(fields[:8])
    if isinstance(values, Fault):
        return values
    if not fields[9:]:
        return Labelled(list(zip(values[::2], values[1::2], strict=True)), fields[8], 0)
    if fields[9] not in ("0", "1", "2"):
        return Fault(f"the difficulty {fields[9]!r}", "0, 1 or 2")
    return Labelled(list(zip(values[::2], values[1::2], strict=True)), fields[8], int(fields[9]))


def _identity(item: Labelled) -> tuple[object, ...]:
    return (item.name, *sorted(item.corners))


def _shape_faults(found: Sequence[Labelled]) -> list[Fault | None]:
    """What is wrong with the corners of well-formed lines, or None; all at once, since NumPy is slow on one."""
    if not found:
        return []
    corners = np.array([item.corners for item in found], np.float64).reshape(-1, 4, 2)
    crossed = Fault("crossed corners", "four corners in order around the object")
    empty = Fault("corners that enclose no area", "four corners around the object")
    areas = zip(crosses(corners).tolist(), np.abs(signed_area(corners)).tolist(), strict=True)
    return [crossed if crossing else empty if area < LEAST_AREA else None for crossing, area in areas]


def _unit(path: Path) -> str:
    return "feature" if path.suffix.lower() in LABEL_SUFFIXES[1:] else "line"


def _unknown(name: str, class_names: Sequence[str]) -> Fault:
    near = difflib.get_close_matches(name, class_names, 1)
    advice = f"Did you mean {near[0]}?" if near else "Correct the name or the list of classes."
    return Fault(f"the unknown class {name!r}", f"one of {', '.join(class_names)}", advice)


def _fault(item: Labelled, shape: Fault | None, seen: Mapping[tuple[object, ...], str]) -> Fault | None:
    """What makes a well-formed line no object of any class, or None; shape: what is wrong with its corners."""
    if shape:
        return shape
    if _identity(item) in seen:
        return Fault(f"the object of {seen[_identity(item)]} again", "each object once", "Remove the line.")
    return None


def _folder(root: Path, name: str, suffixes: Sequence[str]) -> list[Path]:
    """Files of a data set's subfolder, sorted; `UserError` where there are none."""
    folder = check_folder(root, name)
    files = _files(folder, suffixes)
    if not files:
        raise UserError(explain(folder, "no such files", f"files ending in {' '.join(suffixes)}", "Check the folder."))
    return files


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and not path.name.startswith(".")]


def check_folder(root: Path, name: str) -> Path:
    """A data set's subfolder; `UserError` where it is missing."""
    folder = root / name
    if not folder.is_dir():
        missing, expected = (folder, f"the folder {name} in {root}") if root.is_dir() else (root, "a data set")
        found = "a file" if root.is_file() else "no such folder"
        raise UserError(explain(missing, found, expected, folder_advice(root)))
    return folder
