"""COCO's JSON: outlines as `segmentation`, or rotated boxes of five values.

Five values in `bbox` are read and written as Detectron2's XYWHA_ABS: centre, width, height in pixels, and the angle in degrees,
counter-clockwise on the screen. Files written here say so in `info`. Four values are COCO's own: left, top, width, height.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from rotanext.errors import Problems, UserError, explain
from rotanext.labels.dataset import ImageFiles, LabelSet, Shapes, existing, finished, nothing_read, size_of
from rotanext.labels.values import (
    Invalid,
    class_name,
    flag,
    four_corners,
    image_name,
    items,
    level,
    number,
    points,
    read_json,
    record,
    side,
)
from rotanext.polygons import as_rectangles, boxes_to_corners, signed_area
from rotanext.system.files import write_bytes

_ANGLE = "bbox is [cx, cy, w, h, angle]: pixels, degrees, counter-clockwise on the screen"


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read a file, or those of a folder (each is a subset, named after the file). What is no label goes to `problems`.

    Raises `UserError` for a file that is no COCO data set, or where nothing is left.
    """
    existing(source, "a COCO file or a folder of them")
    folder = source / "annotations" if (source / "annotations").is_dir() else source
    paths = [source] if source.is_file() else sorted(folder.glob("*.json"))
    root = source if source.is_dir() else source.parent.parent if source.parent.name == "annotations" else source.parent
    files, data = ImageFiles([images or root]), LabelSet()
    for path in paths:
        own = re.fullmatch(r"instances_([A-Za-z]\w*?)(20\d\d)?", path.stem)
        subset = own[1] if own else path.stem if len(paths) > 1 else ""
        subset = "" if subset == "all" else subset
        _read_one(path, files, subset, own[1] + (own[2] or "") if own else subset, data, problems)
    data.unlabelled = files.unused()
    if not data.images:
        raise nothing_read(source, "COCO's JSON files", problems)
    return finished(data, problems)


def _read_one(path: Path, files: ImageFiles, subset: str, folder: str, data: LabelSet, problems: Problems) -> None:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        found = "a list" if isinstance(content, list) else "no list of images"
        advice = "Detections (a list) need their data set; labels have images, annotations and categories."
        raise UserError(explain(path, found, "images, annotations and categories", advice))
    classes = _categories(path, content, data, problems)
    images: dict[int, tuple[str, tuple[int, int], Path | None, Shapes]] = {}
    for place, entry in enumerate(content["images"], 1):
        try:
            record(entry, "an image")
            name = image_name(entry.get("file_name"))
            file = files.find(name, subset, folder)
            has_size = entry.get("width") is not None and entry.get("height") is not None
            size = size_of(file, (side(entry["width"]), side(entry["height"])) if has_size else (0, 0), path, problems)
            images[_id(entry, "id")] = (name, size, file, Shapes())
        except Invalid as fault:
            problems.add(path, f"in image {place} {fault.found}", fault.expected, fault.advice)
    annotations = content.get("annotations", [])
    reduced = 0
    for place, entry in enumerate(annotations if isinstance(annotations, list) else [], 1):
        try:
            reduced += _read_object(record(entry, "an annotation"), place, classes, images)
        except Invalid as fault:
            problems.add(path, f"in annotation {place} {fault.found}", fault.expected, fault.advice)
    if reduced:
        data.notes.append(f"outlines: {reduced} of other than four points became the rectangle of least area around them")
    for name, size, file, shapes in images.values():
        data.images.append(shapes.image(name, size, path, file, subset))


def _categories(path: Path, content: dict[str, Any], data: LabelSet, problems: Problems) -> dict[int, str]:
    classes: dict[int, str] = {}
    categories = content.get("categories", [])
    for place, entry in enumerate(categories if isinstance(categories, list) else [], 1):
        try:
            name = class_name(record(entry, "a category").get("name"))
            classes[_id(entry, "id")] = name
        except Invalid as fault:
            problems.add(path, f"in category {place} {fault.found}", fault.expected, fault.advice)
    data.class_names = list(dict.fromkeys([*data.class_names, *(classes[key] for key in sorted(classes))]))
    return classes


def _id(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(f"{key} that is a {type(value).__name__}", "a whole number")
    return value


def _read_object(
    entry: dict[str, Any],
    place: int,
    classes: dict[int, str],
    images: dict[int, tuple[str, tuple[int, int], Path | None, Shapes]],
) -> bool:
    """Put one annotation to its image; whether its outline had to become a rectangle. Raises `Invalid`."""
    image, category = _id(entry, "image_id"), _id(entry, "category_id")
    if image not in images:
        raise Invalid(f"image_id {image}", "the id of one of the images")
    if category not in classes:
        raise Invalid(f"category_id {category}", "the id of one of the categories")
    corners, exact = _corners(entry)
    difficult = level(entry["difficult"]) if "difficult" in entry else int(flag(entry.get("iscrowd", 0)))
    score = number(entry["score"], "a score", 1.0) if entry.get("score") is not None else float("nan")
    images[image][3].add(corners, classes[category], place, difficult, score)
    return not exact


def _corners(entry: dict[str, Any]) -> tuple[np.ndarray, bool]:
    outline, box = entry.get("segmentation"), entry.get("bbox")
    attributes = entry.get("attributes")
    if isinstance(attributes, dict) and attributes.get("rotation") not in (None, 0, 0.0, 360.0):
        advice = "Export it in the tool's own format (CVAT for images: --from cvat)."
        raise Invalid("an upright bbox with attributes.rotation", "corners, or five values", advice)
    if isinstance(outline, dict):
        raise Invalid("a mask (RLE) as segmentation", "polygons", "Turn masks into polygons first.")
    if isinstance(outline, list) and outline:
        parts = [points(part) for part in outline] if isinstance(outline[0], list) else [points(outline)]
        return four_corners(parts[0]) if len(parts) == 1 else four_corners(np.concatenate([*parts, parts[0][:1]]))
    values = [number(value, "a number in bbox") for value in items(box, "segmentation and bbox")]
    if len(values) not in (4, 5):
        raise Invalid(f"a bbox of {len(values)} values", "four, or five with the angle")
    x, y, w, h = values[:4]
    if w < 0 or h < 0:
        raise Invalid(f"sides of {w:g} x {h:g}", "sides from 0")
    if len(values) == 5:
        return boxes_to_corners([x, y, w, h, -math.radians(values[4])]), True
    return boxes_to_corners([x + w / 2, y + h / 2, w, h, 0.0]), True


def write(target: Path, data: LabelSet) -> None:
    """Write annotations/instances_SUBSET.json (`all` without subsets) with outlines and upright boxes; see `write_turned`."""
    _write(target, data, False)


def write_turned(target: Path, data: LabelSet) -> None:
    """The same with boxes of five values, and without outlines; the objects are rectangles."""
    _write(target, data, True)


def _write(target: Path, data: LabelSet, boxes: bool) -> None:
    (target / "annotations").mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(data.class_names, 1)]
    index = {entry["name"]: entry["id"] for entry in categories}
    for subset in data.subsets:
        content: dict[str, Any] = {"info": {"description": _ANGLE} if boxes else {}, "images": [], "annotations": []}
        for image in data.images:
            if image.subset != subset:
                continue
            number = len(content["images"]) + 1
            record = {"id": number, "file_name": image.name, "width": image.width, "height": image.height}
            content["images"].append(record)
            rectangles, areas = as_rectangles(image.objects.corners), signed_area(image.objects.corners)
            for at, (corners, name) in enumerate(zip(image.objects.corners, image.objects.names, strict=True)):
                low, high = corners.min(0), corners.max(0)
                entry = {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": index[name],
                    "segmentation": [] if boxes else [_rounded(corners.reshape(-1))],
                    "bbox": _turned_box(rectangles[at]) if boxes else _rounded([*low, *(high - low)]),
                    "area": round(abs(float(areas[at])), 4),
                    "iscrowd": 0,
                }
                if image.objects.difficult[at]:
                    entry["difficult"] = int(image.objects.difficult[at])
                if math.isfinite(image.scores[at]):
                    entry["score"] = float(image.scores[at])
                content["annotations"].append(entry)
        content["categories"] = categories
        name = f"instances_{subset or 'all'}.json"
        write_bytes(target / "annotations" / name, (json.dumps(content, ensure_ascii=False) + "\n").encode())


def _turned_box(box: np.ndarray) -> list[float]:
    return [*_rounded(box[:4]), round(-math.degrees(box[4]), 8) + 0.0]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) + 0.0 for value in values]
