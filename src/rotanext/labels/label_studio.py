"""Label Studio's JSON: tasks with rectangles (percent, turned about their top left corner) and polygons.

`x`, `y`, `width` and `height` are percent of the image's width and height; `rotation` is in degrees, clockwise on the screen,
about the corner (x, y). Written are rectangles as such, everything else as polygons.
"""

import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from rotanext.errors import Problems
from rotanext.labels.cvat import EXACT
from rotanext.labels.dataset import ImageFiles, LabelledImage, LabelSet, Shapes, existing, finished, nothing_read, size_of
from rotanext.labels.values import Invalid, class_name, four_corners, image_name, items, number, points, read_json, record, side
from rotanext.polygons import as_rectangles, boxes_to_corners, off_rectangle, rotation, upright
from rotanext.system.files import write_bytes

_MOST = 1e5  # percent
_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio's own, before the name of an uploaded file


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read an export (JSON or JSON-MIN), or every JSON file of a folder; of several annotations of a task the first counts.

    Without annotations a task's first prediction is read, with its scores. What is no label goes to `problems`.
    """
    existing(source, "Label Studio's JSON export")
    root = source if source.is_dir() else source.parent
    files, data = ImageFiles([images or root]), LabelSet()
    notes = {"outlines": 0, "annotations": 0}
    for path in [source] if source.is_file() else sorted(root.glob("*.json")):
        content = read_json(path)
        tasks = content if isinstance(content, list) else [content]
        for place, task in enumerate(tasks, 1):
            try:
                data.images.append(_read_task(record(task, "a task"), place, path, files, problems, notes))
            except Invalid as fault:
                problems.add(path, f"in task {place} {fault.found}", fault.expected, fault.advice)
    data.unlabelled = files.unused()
    if not data.images:
        raise nothing_read(source, "Label Studio's tasks with data.image", problems)
    if notes["outlines"]:
        data.notes.append(f"outlines: {notes['outlines']} of other than four points became the rectangle of least area around them")
    if notes["annotations"]:
        data.notes.append(f"annotations: of {notes['annotations']} tasks with several, the first was read")
    return finished(data, problems)


def _read_task(
    task: dict[str, Any], place: int, path: Path, files: ImageFiles, problems: Problems, notes: dict[str, int]
) -> LabelledImage:
    values = task["data"] if isinstance(task.get("data"), dict) else task
    address = next((values[key] for key in ("image", "img", "photo", "picture") if isinstance(values.get(key), str)), None)
    if address is None:
        raise Invalid("no image", "data with image", "Name the image's field image.")
    subset = values["subset"] if isinstance(values.get("subset"), str) and values["subset"].isalnum() else ""
    name = _image(address)
    file = files.find(name, subset)
    if file is None:
        last = name.rpartition("/")[2]
        file = files.find(_PREFIX.sub("", last), subset)
        name = file.name if file else last
    results, score = _results(task, notes)
    sizes = [values, *(entry for entry in results if isinstance(entry, dict))]
    keys = (("width", "height"), ("original_width", "original_height"))
    claimed = next(((e[a], e[b]) for e in reversed(sizes) for a, b in keys[e is not values :] if a in e and b in e), None)
    size = size_of(file, (side(claimed[0]), side(claimed[1])) if claimed else (0, 0), path, problems)
    if results and size == (0, 0):
        raise Invalid("no size of the image", "original_width and original_height, or the image", "Add it or --images.")
    shapes = Shapes()
    for number_, entry in enumerate(results, 1):
        try:
            if record(entry, "a result").get("type", "rectanglelabels") in ("choices", "textarea", "rating", "relation", "labels"):
                continue
            corners, exact, label = _shape(entry, size)
            own = entry.get("score", score)
            shapes.add(corners, label, number_, score=float("nan") if own is None else number(own, "a score", 1.0))
            notes["outlines"] += not exact
        except Invalid as fault:
            problems.add(path, f"in task {place}, result {number_}, {fault.found}", fault.expected, fault.advice)
    return shapes.image(name.rpartition("/")[2], size, path, file, subset)


def _image(address: str) -> str:
    """The image's name in an address, a path, or `/data/local-files/?d=PATH`."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise Invalid(f"the address {address[:60]!r}", "the image's address or path") from None
    inner = parts.query.removeprefix("d=") if parts.query.startswith("d=") else parts.path
    return image_name(unquote(inner))


def _results(task: dict[str, Any], notes: dict[str, int]) -> tuple[list[Any], float | None]:
    """The results of a task, and the score of predictions that have none of their own (None: these are annotations)."""
    for key in ("annotations", "completions", "predictions"):
        entries = task.get(key)
        chosen = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        chosen = [entry for entry in chosen if not entry.get("was_cancelled") and isinstance(entry.get("result"), list)]
        if chosen:
            notes["annotations"] += len(chosen) > 1
            score = chosen[0].get("score")
            return chosen[0]["result"], (score if isinstance(score, float | int) else 1.0) if key == "predictions" else None
    for value in task.values():  # JSON-MIN: a field named after the label's control
        if isinstance(value, list) and value and isinstance(value[0], dict) and "original_width" in value[0]:
            return value, None
    return [], None


def _shape(entry: dict[str, Any], size: tuple[int, int]) -> tuple[np.ndarray, bool, str]:
    """Corners `[4, 2]`, whether they stand there as they are, and the class; raises `Invalid`."""
    value = record(entry.get("value", entry), "a value")
    labels = next((value[key] for key in ("rectanglelabels", "polygonlabels", "labels") if key in value), None)
    label = class_name((items(labels, "labels") or [None])[0])
    scale = np.array(size) / 100
    if "points" in value:
        outline = points(items(value["points"], "points"))
        corners, exact = four_corners(outline * scale)
        return corners, exact, label
    if not {"x", "y", "width", "height"} <= value.keys():
        expected = "a rectangle (x, y, width, height) or a polygon (points)"
        raise Invalid(f"a result of the type {str(entry.get('type'))[:30]!r}", expected, "Draw it as one of these.")
    x, y, w, h = (number(value[key], f"{key} in percent", _MOST) for key in ("x", "y", "width", "height"))
    angle = math.radians(number(value.get("rotation", 0), "an angle in degrees", 3600))
    if w < 0 or h < 0:
        raise Invalid(f"sides of {w:g} x {h:g}", "sides from 0")
    box = upright((0.0, 0.0), np.array([w, h]) * scale)
    return box @ rotation(angle).T + np.array([x, y]) * scale, True, label


def write(target: Path, data: LabelSet) -> None:
    """Write tasks.json (annotations; predictions where an image's objects all have a score) and labels.xml, the interface."""
    tasks = [_task(number_, image) for number_, image in enumerate(data.images, 1)]
    write_bytes(target / "tasks.json", (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode())
    from rotanext.labels.values import xml_attribute

    labels = "".join(f"\n    <Label value={xml_attribute(name)}/>" for name in data.class_names)
    interface = "\n".join(
        [
            "<View>",
            '  <Image name="image" value="$image"/>',
            f'  <RectangleLabels name="label" toName="image" canRotate="true">{labels}\n  </RectangleLabels>',
            f'  <PolygonLabels name="outline" toName="image">{labels}\n  </PolygonLabels>',
            "</View>",
            "",
        ]
    )
    write_bytes(target / "labels.xml", interface.encode())


def _task(number_: int, image: LabelledImage) -> dict[str, Any]:
    size = np.array([image.width, image.height], np.float64)
    corners = image.objects.corners
    boxes, plain = as_rectangles(corners), off_rectangle(corners) < EXACT
    results: list[dict[str, Any]] = []
    for at, name in enumerate(image.objects.names):
        value: dict[str, Any]
        if plain[at]:
            origin = boxes_to_corners(boxes[at])[0] / size * 100
            sides = boxes[at, 2:4] / size * 100
            keys = zip(("x", "y", "width", "height"), map(_digits, [*origin, *sides]), strict=True)
            value = {**dict(keys), "rotation": _digits(math.degrees(boxes[at, 4]) % 360), "rectanglelabels": [name]}
            kind, control = "rectanglelabels", "label"
        else:
            value = {"points": [[_digits(x), _digits(y)] for x, y in corners[at] / size * 100], "polygonlabels": [name]}
            kind, control = "polygonlabels", "outline"
        result: dict[str, Any] = {"id": f"o{number_}-{at}", "type": kind, "from_name": control, "to_name": "image", "value": value}
        result |= {"original_width": image.width, "original_height": image.height, "image_rotation": 0}
        results.append(result | ({"score": float(image.scores[at])} if math.isfinite(image.scores[at]) else {}))
    scored = len(results) > 0 and bool(np.isfinite(image.scores).all())
    inner: dict[str, Any] = {"width": image.width, "height": image.height}
    if image.subset:
        inner["subset"] = image.subset
    folder = f"images/{image.subset}/" if image.subset else "images/"
    held = {"predictions" if scored else "annotations": [{"result": results}]}
    inner["image"] = quote(folder + image.name)
    return {"id": number_, "data": inner, **held}


def _digits(value: float) -> float:
    return round(float(value), 10) + 0.0
