"""YOLO-OBB: `class x1 y1 x2 y2 x3 y3 x4 y4` a line, divided by the image's width and height, and data.yaml with the names.

Layouts that are read: images/SUBSET and labels/SUBSET, SUBSET/images and SUBSET/labels, images and labels, and both in one folder.
Written is images/ and labels/, with a folder for each subset.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rotanext.errors import Problems, UserError, counted, explain, shortened
from rotanext.labels.dataset import (
    ImageFiles,
    LabelledImage,
    LabelSet,
    Shapes,
    existing,
    finished,
    is_validation,
    nothing_read,
    size_of,
    subset_folders,
)
from rotanext.labels.values import Invalid, class_name, four_corners, image_name, number, read_bytes
from rotanext.polygons import boxes_to_corners
from rotanext.system.files import write_bytes

_LINE = "class and x1 y1 x2 y2 x3 y3 x4 y4"
_MOST = 1000.0  # images either side
_LONGEST_YAML = 1 << 20
_KEYS = ("train", "val", "test")


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read a YOLO-OBB folder or its data.yaml; the images must be there, as their sizes are needed.

    Lines of five numbers (an upright box) and outlines of more than four points are read, too; a tenth number is a score. What is
    no label goes to `problems`; raises `UserError` where nothing is left, or the classes' names are not told.
    """
    existing(source, "a YOLO folder or its data.yaml")
    root = source if source.is_dir() else source.parent
    settings = _settings(root, source)
    data = LabelSet(class_names=_class_names(root, settings))
    changed = Counter[str]()
    given = ImageFiles([images]) if images is not None else None
    for subset, folder, labels in _places(root, settings):
        files = given or ImageFiles([folder])
        for path in sorted(labels.glob("*.txt")):
            if path.name.startswith(".") or path.name == "classes.txt":
                continue
            try:
                data.images.append(_read_one(path, files, subset, data.class_names, problems, changed))
            except UserError as error:
                problems.note(str(error))
            except Invalid as fault:
                problems.add(path, fault.found, fault.expected, fault.advice)
        if given is None:  # an image without a file is one with nothing in it
            data.images += _backgrounds(files.unused(), subset, problems)
    data.unlabelled = given.unused() if given else []
    if not any(image.label for image in data.images):
        raise nothing_read(source, "labels/NAME.txt with images/NAME.jpg", problems)
    if count := changed["outline"]:
        data.notes.append(f"outlines: {count} of more than four points became the rectangle of least area around them")
    if count := changed["upright"]:
        lines = counted(count, "line")
        data.notes.append(f"note: {lines} of five values (centre and sides) became upright boxes: correct only for upright objects")
    return finished(data, problems)


def _backgrounds(files: list[Path], subset: str, problems: Problems) -> Iterator[LabelledImage]:
    for path in files:
        try:
            yield Shapes().image(path.name, size_of(path, (0, 0), path, problems, stored=True), None, path, subset)
        except Invalid as fault:
            problems.add(path, fault.found, fault.expected, fault.advice)


def _settings(root: Path, source: Path) -> dict[str, Any]:
    """What data.yaml says, {} without one; raises `UserError` where it is no such file."""
    path = source if source.is_file() else next((root / n for n in ("data.yaml", "dataset.yaml") if (root / n).is_file()), None)
    if path is None:
        found = sorted(root.glob("*.y*ml"))
        path = found[0] if len(found) == 1 else None
    if path is None:
        return {}
    import yaml

    data = read_bytes(path)
    advice = "Write names: {0: first, 1: second} and train, val."
    try:
        if len(data) > _LONGEST_YAML:
            raise ValueError(f"{len(data)} bytes")
        text = data.decode("utf-8-sig")
        # Aliases, which no data.yaml needs, can make a small file fill the memory.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("aliases")
        values = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError, TypeError, LookupError, AttributeError, OverflowError) as error:
        found_text = f"what cannot be read ({shortened(' '.join(str(error).split()))})"
        raise UserError(explain(path, found_text, "a plain YAML file", advice)) from None
    if not isinstance(values, dict):
        raise UserError(explain(path, f"a {type(values).__name__}", "keys and values", advice))
    return {**values, "": path}


def _class_names(root: Path, settings: dict[str, Any]) -> list[str]:
    path = settings.get("", root / "data.yaml")
    names = settings.get("names")
    if names is None and (root / "classes.txt").is_file():
        path = root / "classes.txt"
        names = [line for line in read_bytes(path).decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if isinstance(names, dict):
        if not all(type(key) is int for key in names) or sorted(names) != list(range(len(names))):
            raise UserError(explain(path, "names that are not numbered 0, 1, 2, ...", "one for each class", "Number them so."))
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):  # an empty one is that of images with nothing in them
        raise UserError(explain(path, "no names of classes", "names: [first, second, ...]", "Add them to data.yaml."))
    try:
        found = [class_name(str(name) if isinstance(name, str | int | float) else None) for name in names]
    except Invalid as fault:
        raise UserError(explain(path, fault.found, fault.expected, "Correct the name.")) from None
    if len(set(found)) < len(found):
        raise UserError(explain(path, "two classes of one name", "different names", "Rename one."))
    return found


def _places(root: Path, settings: dict[str, Any]) -> Iterator[tuple[str, Path, Path]]:
    """(subset, images, labels) of every part; as data.yaml says, and where that leads nowhere, as the folders do."""
    base = root / str(settings["path"]) if isinstance(settings.get("path"), str) else root
    seen: set[Path] = set()
    told = [(key, settings.get(key)) for key in _KEYS]
    single = len({str(value) for _, value in told if value}) == 1
    for key, value in told:
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, str) or not entry or "\0" in entry or len(entry) > 1000:
                continue
            bare = "/".join(part for part in entry.replace("\\", "/").split("/") if part not in ("..", ".", ""))
            for images in (base / entry, root / entry, root / bare):
                labels = _labels_of(images)
                if images.is_dir() and labels.is_dir() and labels.resolve() not in seen:
                    seen.add(labels.resolve())
                    yield _subset(key, entry, single), images, labels
                    break
    if seen:
        return
    for subset, folder in subset_folders(root / "labels", _KEYS) and [(p.name, p) for p in sorted((root / "labels").iterdir())]:
        if folder.is_dir():
            yield subset, root / "images" / folder.name, folder
            seen.add(folder)
    if not seen and subset_folders(root, ("labels",)):
        for subset, folder in subset_folders(root, ("labels",)):
            yield subset, folder / "images" if (folder / "images").is_dir() else folder, folder / "labels"
    elif not seen:
        yield "", root, root


def _subset(key: str, entry: str, single: bool) -> str:
    """The key, or where all keys name one folder, that folder's own word: train, val, test or none."""
    words = entry.replace("\\", "/").split("/")
    return key if not single else next((name for name in _KEYS if name in words), "")


def _labels_of(images: Path) -> Path:
    """The folder of the labels of a folder of images: its last `images` becomes `labels`."""
    parts = list(images.parts)
    places = [index for index, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts) if parts else images


def _read_one(
    path: Path, files: ImageFiles, subset: str, names: list[str], problems: Problems, changed: Counter[str]
) -> LabelledImage:
    name = image_name(path.stem)
    file = files.find(name, subset)
    if file is None:
        raise Invalid("no image for these labels, whose coordinates are divided by its size", "the image", "Add it or --images.")
    size = size_of(file, (0, 0), path, problems)
    if size == (0, 0):
        raise Invalid("labels of an image that cannot be read", "an image", "Replace it.")
    shapes = Shapes()
    for line, text in enumerate(read_bytes(path).removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not text.strip():
            continue
        try:
            corners, label, score, kind = _parse(text.decode("utf-8", "replace").split(), size, names)
            shapes.add(corners, label, line, score=score)
            changed[kind] += 1
        except Invalid as fault:
            problems.add(path, fault.found, fault.expected, fault.advice, line)
    return shapes.image(file.name, size, path, file, subset)


def _parse(fields: list[str], size: tuple[int, int], names: list[str]) -> tuple[np.ndarray, str, float, str]:
    """Corners `[4, 2]`, class, score, and what they are made of ("corners", "outline" or "upright"); raises `Invalid`."""
    if len(fields) not in (5, 9, 10) and (len(fields) < 7 or len(fields) % 2 == 0):
        raise Invalid(f"{len(fields)} fields", f"{_LINE} (nine fields)")
    values = [number(field, "a coordinate divided by the image's side", _MOST) for field in fields[1:]]
    if not fields[0].isdecimal() or len(fields[0]) > 9 or int(fields[0]) >= len(names):
        raise Invalid(f"the class {fields[0][:20]!r}", f"a number from 0 to {len(names) - 1}", "Correct it, or data.yaml's names.")
    name, scale = names[int(fields[0])], np.array(size, np.float64)
    if len(fields) == 5:
        (cx, cy), (w, h) = np.array(values).reshape(2, 2) * scale
        return boxes_to_corners([cx, cy, w, h, 0.0]), name, float("nan"), "upright"
    score = values.pop() if len(fields) == 10 else float("nan")
    if score > 1 or score < 0:
        raise Invalid(f"a score of {score:g}", "a score from 0 to 1")
    corners, exact = four_corners(np.array(values).reshape(-1, 2) * scale)
    return corners, name, score, "corners" if exact else "outline"


def write(target: Path, data: LabelSet) -> None:
    """Write labels/ and data.yaml. Without subsets, data.yaml names the same images for training and validation, and says so."""
    index = {name: number for number, name in enumerate(data.class_names)}
    for image in data.images:
        folder = target / "labels" / image.subset
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / f"{image.stem}.txt", "".join(_lines(image, index)).encode())
    write_bytes(target / "data.yaml", _yaml(data).encode())


def _lines(image: LabelledImage, index: dict[str, int]) -> Iterator[str]:
    values = image.objects.corners.reshape(-1, 8) / ([image.width, image.height] * 4) + 0.0
    for row, name, score in zip(values.tolist(), image.objects.names, image.scores.tolist(), strict=True):
        tail = "" if score != score else f" {score:.8g}"
        yield f"{index[name]} {' '.join(f'{value:.10g}' for value in row)}{tail}\n"


def _yaml(data: LabelSet) -> str:
    import json

    places: dict[str, list[str]] = {}
    for subset in data.subsets:
        key = "val" if is_validation(subset) else subset if subset in _KEYS else "train"
        places.setdefault(key, []).append(f"images/{subset}" if subset else "images")
    lines = ["# Paths are relative to this file."]
    if "val" not in places:
        places["val"] = places.get("train", []) or next(iter(places.values()), [])
        lines.append("# There is no subset for validation: split the images before you believe a score.")
    for key, folders in places.items():
        lines.append(f"{key}: {folders[0] if len(folders) == 1 else json.dumps(folders)}")
    names = [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(data.class_names)]
    return "\n".join([*lines, "names:" if names else "names: []", *names, ""])
