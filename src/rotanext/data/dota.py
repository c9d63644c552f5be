"""DOTA folders (images/ + labelTxt/), their label lines, and the Task1 files of the test server."""

import difflib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rotanext.data.folder_advice import folder_advice
from rotanext.errors import Problems, UserError, explain
from rotanext.images.reading import IMAGE_SUFFIXES, write_file
from rotanext.objects import Fault, Labelled, Objects
from rotanext.polygons import crosses, signed_area

if TYPE_CHECKING:  # torch stays out of the splitter's worker processes
    from rotanext.detections import Detections

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
_TASK1_LINE = "`stem score x1 y1 x2 y2 x3 y3 x4 y4`"
LABEL_SUFFIXES = (".txt", ".geojson", ".gpkg")  # the first that an image has counts
_FARTHEST = 1e6
_LEAST_AREA = 1e-3


class Item(NamedTuple):
    """One image of a data set and its label file (None in a data set without labels)."""

    stem: str
    image: Path | None
    label: Path | None


class Task1Line(NamedTuple):
    """One detection of a Task1 file; corners are x1, y1, ... x4, y4 in pixels of the whole image."""

    stem: str
    score: float
    corners: tuple[float, ...]


def read_objects(
    path: str | Path, problems: Problems, class_names: Sequence[str] | None = None, image: Path | None = None
) -> Objects:
    """Read a label file: DOTA text, or GeoJSON or GeoPackage footprints on the ground of the image `image` (extra `geo`).

    An empty file is an image without objects. In DOTA text, header lines, a byte-order mark, any line ends, tabs, blank lines and
    a missing difficulty are fine; footprints become rectangles of least area, see `read_footprints`. An object goes to `problems`
    where its line or feature is broken, its class is not among `class_names`, or its corners are crossed, without area or those of
    an earlier object of the same class. Raises `UserError` where the file cannot be read, or the image's place is not known.
    """
    path = Path(path)
    unit = "feature" if path.suffix.lower() in LABEL_SUFFIXES[1:] else "line"
    seen: dict[tuple[object, ...], str] = {}
    found: list[Labelled] = []
    entries = list(read_label_entries(path, image))
    shapes = iter(_shape_faults([parsed for _, parsed in entries if isinstance(parsed, Labelled)]))
    for number, parsed in entries:
        fault = parsed if isinstance(parsed, Fault) else _fault(parsed, next(shapes), class_names, seen)
        if fault and unit == "line":
            problems.add(path, fault.found, fault.expected, fault.advice, number)
        elif fault:
            problems.add(path, f"in feature {number} {fault.found}", fault.expected, fault.advice.replace("line", "feature"))
        elif not isinstance(parsed, Fault):
            seen[_identity(parsed)] = f"{unit} {number}"
            found.append(parsed)
    corners = np.array([item.corners for item in found], np.float64).reshape(-1, 4, 2)
    return Objects(corners, [item.name for item in found], np.array([item.difficult for item in found], np.int64))


def write_objects(path: str | Path, objects: Objects) -> None:
    """Write a DOTA label file with coordinates to 1e-4 pixel, at least one decimal (`218.0`); whole or not at all."""
    lines = []
    rounded = np.round(objects.corners.reshape(-1, 8), 4) + 0.0  # no "-0.0"
    for values, name, difficult in zip(rounded.tolist(), objects.names, objects.difficult.tolist(), strict=True):
        lines.append(f"{' '.join(map(str, values))} {name} {difficult}\n")
    write_file(path, "".join(lines).encode())


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
    root = Path(root)
    images: dict[str, Path] = {}
    for path in _folder(root, "images", IMAGE_SUFFIXES):
        if path.stem in images:
            advice = "Rename or remove one of them; this one is left out."
            problems.add(path, f"a second image named {path.stem} beside {images[path.stem].name}", "one", advice)
        else:
            images[path.stem] = path
    if not labelled:
        return [Item(stem, images[stem], None) for stem in sorted(images)]
    labels = list_labels(root / "labelTxt", problems)
    for stem in sorted(images.keys() - labels.keys()):
        advice = "Add it; an empty file says that the image is background."
        problems.add(images[stem], "no label file for this image", f"{root / 'labelTxt' / stem}.txt", advice)
    for stem in sorted(labels.keys() - images.keys()):
        advice = "Add the image or remove the label file."
        problems.add(labels[stem], "no image for this label file", f"{root / 'images' / stem}.png (or jpg, tif, bmp)", advice)
    both = sorted(images.keys() & labels.keys())
    if not both:
        advice = "Give each image and its label file the same name."
        raise UserError(explain(root, "no image that has a label file", "images/NAME.png and labelTxt/NAME.txt", advice))
    return [Item(stem, images[stem], labels[stem]) for stem in both]


def list_labels(folder: Path, problems: Problems) -> dict[str, Path]:
    """The label file of each stem in a folder; a second one goes to `problems`, `UserError` where there is none."""
    labels: dict[str, Path] = {}
    files = _folder(folder.parent, folder.name, LABEL_SUFFIXES)
    for path in sorted(files, key=lambda path: LABEL_SUFFIXES.index(path.suffix.lower())):
        if path.stem in labels:
            advice = "Remove one of them; this one is left out."
            problems.add(path, f"a second label file beside {labels[path.stem].name}", "one for each image", advice)
        else:
            labels[path.stem] = path
    return dict(sorted(labels.items()))


def images_beside(labels: Path) -> dict[str, Path]:
    """The image of each stem in the folder `images` beside a folder of labels; empty where there is no such folder."""
    files = sorted((labels.parent / "images").glob("[!.]*"), reverse=True)  # the first of a stem counts
    return {path.stem: path for path in files if path.suffix.lower() in IMAGE_SUFFIXES}


def find_class_names(roots: Sequence[str | Path], choice: str | Path, problems: Problems) -> tuple[str, ...]:
    """Class names: `auto` (those in the labels, sorted), a name in `CLASS_LISTS`, or a text file with one a line."""
    if str(choice) in CLASS_LISTS:
        return CLASS_LISTS[str(choice)]
    if str(choice) == "auto":
        # Broken lines and footprints without image are reported where the objects themselves are read.
        quiet, found = Problems(), set[str]()
        for folder in (Path(root) / "labelTxt" for root in roots):
            images = images_beside(folder)
            for stem, path in list_labels(folder, quiet).items():
                if stem in images or path.suffix.lower() == ".txt":
                    found.update(read_objects(path, quiet, image=images.get(stem)).names)
        if not found:
            where = ", ".join(str(Path(root) / "labelTxt") for root in roots)
            raise UserError(explain(where, "no valid object in any label file", f"lines {_LABEL_LINE}", "Check the labels."))
        return tuple(sorted(found))
    path = Path(choice)
    if not path.is_file():
        near = difflib.get_close_matches(str(choice), ["auto", *CLASS_LISTS], 1)
        advice = f"Did you mean {near[0]}?" if near else "Check the name or the path."
        raise UserError(explain(path, "no such class list", f"auto, {', '.join(CLASS_LISTS)} or a text file", advice))
    lines: dict[str, int] = {}
    for number, name in _lines(path, problems):
        if name in lines or len(name.split()) > 1:
            fault = f"{name!r} a second time" if name in lines else f"{name!r}, with a space inside"
            problems.add(path, fault, "one class name a line, each once", "Remove or rename it.", number)
        else:
            lines[name] = number
    if not lines:
        raise UserError(explain(path, "no class names", "one class name a line", "Add them."))
    return tuple(lines)


def read_task1(directory: str | Path, problems: Problems) -> dict[str, list[Task1Line]]:
    """Read every `Task1_<class>.txt` of a folder: class name to detections in the order of the file.

    Broken lines go to `problems`; raises `UserError` where the folder is missing or holds no such file.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(explain(directory, "no such folder", "a folder of Task1_<class>.txt files", "Check it."))
    files = _task1_files(directory)
    if not files:
        raise UserError(explain(directory, "no Task1_<class>.txt file", "one for each class", "Check the folder."))
    result: dict[str, list[Task1Line]] = {}
    for path in files:
        lines = result[path.stem.removeprefix("Task1_")] = []
        for number, line in _lines(path, problems):
            fields = line.rsplit(None, 9)  # from the right: an image's name may hold spaces
            values = _numbers(fields[1:])
            if len(fields) < 10:
                advice = "Correct or remove the line."
                problems.add(path, f"{len(fields)} fields", f"the ten of {_TASK1_LINE}", advice, number)
            elif isinstance(values, Fault):
                problems.add(path, values.found, values.expected, values.advice, number)
            else:
                lines.append(Task1Line(fields[0], values[0], tuple(values[1:])))
    return result


def check_task1_target(directory: str | Path, class_names: Sequence[str]) -> None:
    """Raise `UserError` where `write_task1` would: known before the work of hours, not after it.

    A folder that holds files of other classes (they would end up in the zip), or a class that cannot be a file's name.
    """
    directory = Path(directory)
    for name in class_names:
        if "/" in name or "\\" in name:
            raise UserError(explain(directory, f"a class named {name!r}", "a name for a file", "Rename it."))
    stale = [path for path in _task1_files(directory) if path.stem.removeprefix("Task1_") not in class_names]
    if stale:
        raise UserError(explain(stale[0], "detections of another class", "none", "Choose an empty folder."))


def write_task1(directory: str | Path, detections_by_stem: Mapping[str, "Detections"], class_names: Sequence[str]) -> list[Path]:
    """Write one `Task1_<class>.txt` a class (empty where nothing was found) with full precision scores.

    Raises `UserError` where the folder or a class cannot be used; see `check_task1_target`.
    """
    directory = Path(directory)
    check_task1_target(directory, class_names)
    lines: dict[str, list[str]] = {name: [] for name in class_names}
    for stem in sorted(detections_by_stem):
        found = detections_by_stem[stem]
        for name, score, corners in zip(found.names, found.scores.tolist(), found.corners.tolist(), strict=True):
            numbers = " ".join(f"{value:.4f}" for point in corners for value in point)
            lines[name].append(f"{stem} {score!r} {numbers}\n")
    directory.mkdir(parents=True, exist_ok=True)
    for name in class_names:
        write_file(directory / f"Task1_{name}.txt", "".join(lines[name]).encode())
    return [directory / f"Task1_{name}.txt" for name in class_names]


def zip_task1(directory: str | Path) -> Path:
    """Pack a folder's Task1 files into its `Task1.zip` for the test server; the same files give the same bytes."""
    directory = Path(directory)
    files = _task1_files(directory)
    if not files:
        raise UserError(explain(directory, "no Task1_<class>.txt file", "one for each class", "Write them first."))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.name)  # dated 1980, so that no clock gets into the file
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    write_file(directory / "Task1.zip", packed.getvalue())
    return directory / "Task1.zip"


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Numbered lines with something on them; one that is not UTF-8 goes to `problems`."""
    for number, line in _decoded(path):
        if isinstance(line, Fault):
            problems.add(path, line.found, line.expected, line.advice, number)
        else:
            yield number, line


def _decoded(path: Path) -> Iterator[tuple[int, str | Fault]]:
    """Numbered lines with something on them, or a `Fault` for one that is not UTF-8."""
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


def _numbers(fields: Sequence[str]) -> list[float] | Fault:
    """Finite numbers of a plausible size, or what is wrong with the first that is not one."""
    values = []
    for field in fields:
        try:
            value = float(field.replace("_", "x"))  # Python reads 1_0 as 10; nobody else does
        except ValueError:
            return Fault(repr(field), "a number")
        if not math.isfinite(value):
            return Fault(field, "a finite number")
        if abs(value) > _FARTHEST:
            return Fault(f"the coordinate {field}", f"at most {_FARTHEST:.0f} pixels either side of 0")
        values.append(value)
    return values


def read_label_entries(path: Path, image: Path | None = None) -> Iterator[tuple[int, Labelled | Fault]]:
    """Every line or feature of a label file with its number, unjudged but for its form; raises like `read_objects`."""
    if path.suffix.lower() in LABEL_SUFFIXES[1:]:
        from rotanext.geo.footprints import read_footprints

        return (yield from read_footprints(path, image))
    for number, line in _decoded(path):
        if isinstance(line, Fault):
            yield number, line
        elif not line.lower().startswith(("imagesource:", "gsd:")):
            yield number, _parse_object(line)


def _parse_object(line: str) -> Labelled | Fault:
    fields = line.split()
    if len(fields) not in (9, 10):
        return Fault(f"{len(fields)} fields", f"the ten of {_LABEL_LINE}")
    values = _numbers(fields[:8])
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
    return [crossed if crossing else empty if area < _LEAST_AREA else None for crossing, area in areas]


def _fault(
    item: Labelled, shape: Fault | None, class_names: Sequence[str] | None, seen: Mapping[tuple[object, ...], str]
) -> Fault | None:
    """What makes a well-formed line no object, or None; shape: what is wrong with its corners."""
    if class_names is not None and item.name not in class_names:
        near = difflib.get_close_matches(item.name, class_names, 1)
        advice = f"Did you mean {near[0]}?" if near else "Correct the name or the list of classes."
        return Fault(f"the unknown class {item.name!r}", f"one of {', '.join(class_names)}", advice)
    if shape:
        return shape
    if _identity(item) in seen:
        return Fault(f"the object of {seen[_identity(item)]} again", "each object once", "Remove the line.")
    return None


def _folder(root: Path, name: str, suffixes: Sequence[str]) -> list[Path]:
    """Files of a data set's subfolder, sorted; `UserError` where there are none."""
    folder = root / name
    if not folder.is_dir():
        missing, expected = (folder, f"the folder {name} in {root}") if root.is_dir() else (root, "a data set")
        found = "a file" if root.is_file() else "no such folder"
        raise UserError(explain(missing, found, expected, folder_advice(root)))
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    if not files:
        raise UserError(explain(folder, "no such files", f"files ending in {' '.join(suffixes)}", "Check the folder."))
    return files


def _task1_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("Task1_*.txt"))
