"""LabelMe: one JSON file beside each image, outlines in pixels.

Also read is what its relatives write: `rotation` shapes, `difficult` and `score` of X-AnyLabeling. Difficulty is written as the
shape's flags `difficult` and `truncated` (cut by a tile's border).
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rotanext.errors import Problems, UserError, explain
from rotanext.labels.dataset import ImageFiles, LabelledImage, LabelSet, Shapes, existing, finished, nothing_read, size_of
from rotanext.labels.values import (
    Invalid,
    class_name,
    flag,
    four_corners,
    image_name,
    items,
    number,
    points,
    read_json,
    record,
    side,
    upright_box,
)
from rotanext.system.files import write_bytes

_OUTLINES = ("polygon", "rotation", "oriented_rectangle", "quad", "quadrilateral")


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read a folder of LabelMe's files (those in its subfolders are subsets), or one. What is no label goes to `problems`."""
    existing(source, "a folder of LabelMe files")
    root = source if source.is_dir() else source.parent
    data, reduced = LabelSet(), 0
    parts = [("", [source])] if source.is_file() else [("", sorted(root.glob("*.json")))]
    if not parts[0][1]:
        parts = [(folder.name, sorted(folder.glob("*.json"))) for folder in sorted(root.iterdir()) if folder.is_dir()]
    files = ImageFiles([images or root])
    for subset, paths in parts:
        for path in paths:
            try:
                image, count = _read_one(path, files, subset, problems)
                data.images.append(image)
                reduced += count
            except UserError as error:
                problems.note(str(error))
            except Invalid as fault:
                problems.add(path, fault.found, fault.expected, fault.advice)
    data.unlabelled = files.unused()
    if not data.images:
        raise nothing_read(source, "LabelMe's NAME.json files", problems)
    if reduced:
        data.notes.append(f"outlines: {reduced} of other than four points became the rectangle of least area around them")
    return finished(data, problems)


def _read_one(path: Path, files: ImageFiles, subset: str, problems: Problems) -> tuple[LabelledImage, int]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError(explain(path, "no list of shapes", "LabelMe's shapes and imagePath", "Check the file and --from."))
    written = content.get("imagePath")
    name = image_name(written if isinstance(written, str) and written.strip() else path.stem)
    file = files.find(name, subset)
    if file is None:
        file = files.find(path.stem, subset)
        name = file.name if file else name
    has_size = content.get("imageWidth") is not None and content.get("imageHeight") is not None
    claimed = (side(content["imageWidth"]), side(content["imageHeight"])) if has_size else (0, 0)
    size = size_of(file, claimed, path, problems)
    shapes, reduced = Shapes(), 0
    for place, entry in enumerate(content["shapes"], 1):
        try:
            corners, exact = _corners(record(entry, "a shape"))
            score = number(entry["score"], "a score", 1.0) if entry.get("score") is not None else float("nan")
            shapes.add(corners, class_name(entry.get("label")), place, _difficult(entry), score)
            reduced += not exact
        except Invalid as fault:
            problems.add(path, f"in shape {place} {fault.found}", fault.expected, fault.advice)
    return shapes.image(name.rpartition("/")[2], size, path, file, subset), reduced


def _difficult(entry: dict[str, Any]) -> int:
    flags = entry.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    if flag(flags.get("truncated", 0)):
        return 2
    return int(flag(flags.get("difficult", 0)) or flag(entry.get("difficult", 0)))


def _corners(entry: dict[str, Any]) -> tuple[np.ndarray, bool]:
    kind = entry.get("shape_type", "polygon")
    if kind == "rectangle":
        ends = items(entry.get("points"), "points")
        if len(ends) == 2:
            pairs = [items(pair, "points") for pair in ends]
            (ax, ay), (bx, by) = points([*pairs, pairs[0]])[:2]
            return upright_box(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)), True
    elif kind not in _OUTLINES:
        expected = f"one of rectangle, {', '.join(_OUTLINES)}"
        raise Invalid(f"a shape of the type {str(kind)[:30]!r}", expected, "Draw it as one of these.")
    return four_corners(points(entry.get("points")))


def write(target: Path, data: LabelSet) -> None:
    """Write one file an image; a subset is a folder of its own."""
    for image in data.images:
        shapes = []
        objects = image.objects
        rows = zip(objects.corners.tolist(), objects.names, objects.difficult.tolist(), image.scores.tolist(), strict=True)
        for corners, name, difficult, score in rows:
            flags = {("difficult", "truncated")[difficult - 1]: True} if difficult else {}
            outline = [[round(x, 4) + 0.0, round(y, 4) + 0.0] for x, y in corners]
            shape: dict[str, Any] = {"label": name, "points": outline, "group_id": None, "shape_type": "polygon", "flags": flags}
            shapes.append(shape | ({"score": score} if math.isfinite(score) else {}))
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name,
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        (target / image.subset).mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        write_bytes(target / image.subset / f"{image.stem}.json", text.encode())
