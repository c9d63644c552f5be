"""CVAT's "for images 1.1": one XML file, with rotated boxes and polygons.

A box's rotation is in degrees, clockwise on the screen, about its centre. Written are rectangles as boxes with rotation, everything
else as polygons; difficulty and score are attributes of these names.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rotanext.errors import Problems, UserError, explain
from rotanext.labels.dataset import ImageFiles, LabelledImage, LabelSet, Shapes, existing, finished, nothing_read, size_of
from rotanext.labels.values import (
    Element,
    Invalid,
    class_name,
    four_corners,
    image_name,
    level,
    number,
    points,
    read_xml,
    side,
    tell,
    upright_box,
    xml_attribute,
    xml_text,
)
from rotanext.polygons import as_rectangles, boxes_to_corners, off_rectangle
from rotanext.system.files import write_bytes

EXACT = 1e-4  # pixels by which a rectangle may be none
_OTHERS = ("polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read a file, or annotations.xml (else every XML file) of a folder. What is no label goes to `problems`.

    Raises `UserError` for a file that is none of CVAT's for images, or where nothing is left.
    """
    existing(source, "CVAT's annotations.xml")
    root = source if source.is_dir() else source.parent
    paths = [source] if source.is_file() else [root / "annotations.xml"] if (root / "annotations.xml").is_file() else []
    files, data = ImageFiles([images or root]), LabelSet()
    for path in paths or sorted(root.glob("*.xml")):
        content = read_xml(path, ("annotations",))
        if content.all("track") and not content.all("image"):
            found, advice = "tracks (CVAT for video)", "Export the task as CVAT for images 1.1."
            raise UserError(explain(path, found, "images", advice))
        data.class_names = list(dict.fromkeys([*data.class_names, *_names(content)]))
        reduced = 0
        for element in content.all("image"):
            try:
                image, count = _read_image(element, path, files, problems)
                data.images.append(image)
                reduced += count
            except Invalid as fault:
                problems.add(path, fault.found, fault.expected, fault.advice, element.line)
        if reduced:
            data.notes.append(f"outlines: {reduced} of other than four points became the rectangle of least area around them")
    data.unlabelled = files.unused()
    if not data.images:
        raise nothing_read(source, "CVAT's annotations.xml with images", problems)
    return finished(data, problems)


def _names(content: Element) -> Iterator[str]:
    """The classes that the task or project lists, in its order."""
    for meta in content.all("meta"):
        for owner in meta.children:
            for labels in owner.all("labels"):
                for label in labels.all("label"):
                    try:
                        yield class_name(label.value("name"))
                    except Invalid:
                        continue


def _read_image(element: Element, path: Path, files: ImageFiles, problems: Problems) -> tuple[LabelledImage, int]:
    name = image_name(element.attribute("name"))
    subset = element.attributes.get("subset", "")
    subset = "" if subset == "default" else subset
    if subset and (not subset.isprintable() or len(subset) > 40 or set(subset) & set("/\\.")):
        raise Invalid(f"the subset {subset[:40]!r}", "a plain word")
    claimed = side(element.attribute("width")), side(element.attribute("height"))
    file = files.find(name, subset)
    size = size_of(file, claimed, path, problems)
    shapes, reduced = Shapes(), 0
    for shape in element.children:
        try:
            if shape.tag in _OTHERS:
                raise Invalid(f"a {shape.tag}", "boxes and polygons", "Draw it as one of these, or leave it out.")
            if shape.tag not in ("box", "polygon"):
                continue
            corners, exact = _corners(shape)
            extra = {entry.attributes.get("name"): entry.text.strip() for entry in shape.all("attribute")}
            score = number(extra["score"], "a score", 1.0) if extra.get("score") else float("nan")
            difficult = level(extra.get("difficult") or 0)
            shapes.add(corners, class_name(shape.attribute("label")), shape.line, difficult, score)
            reduced += not exact
        except Invalid as fault:
            problems.add(path, fault.found, fault.expected, fault.advice, shape.line)
    return shapes.image(name, size, path, file, subset), reduced


def _corners(shape: Element) -> tuple[np.ndarray, bool]:
    """Corners `[4, 2]` of a box or polygon, and whether they are its own; raises `Invalid`."""
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.attribute("points").split(";") if pair.strip()]
        return four_corners(points(pairs))
    left, top, right, bottom = (number(shape.attribute(key), f"a number as {key}") for key in ("xtl", "ytl", "xbr", "ybr"))
    upright_box(left, top, right, bottom)  # refuses ends that are the wrong way round
    angle = math.radians(number(shape.attributes.get("rotation", "0"), "an angle in degrees", 3600))
    return boxes_to_corners([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, angle]), True


def write(target: Path, data: LabelSet) -> None:
    """Write annotations.xml; subsets become the images' attribute of this name."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>", "  <meta>", "    <task>"]
    lines += [f"      <size>{len(data.images)}</size>", "      <mode>annotation</mode>", "      <labels>"]
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>{kind}</input_type><default_value></default_value>"
        f"<values>{values}</values></attribute>"
        for name, kind, values in (("difficult", "select", "0\n1\n2"), ("score", "text", ""))
    )
    lines += [
        f"        <label><name>{xml_text(name)}</name><attributes>{attributes}</attributes></label>" for name in data.class_names
    ]
    lines += ["      </labels>", "    </task>", "  </meta>"]
    for number_, image in enumerate(data.images):
        subset = f" subset={xml_attribute(image.subset)}" if image.subset else ""
        size = f'width="{image.width}" height="{image.height}"'
        lines.append(f'  <image id="{number_}" name={xml_attribute(image.name)}{subset} {size}>')
        lines += _tell(image)
        lines.append("  </image>")
    write_bytes(target / "annotations.xml", "\n".join([*lines, "</annotations>", ""]).encode())


def _tell(image: LabelledImage) -> Iterator[str]:
    corners, difficult, scores = image.objects.corners, image.objects.difficult, image.scores
    boxes, plain = as_rectangles(corners), off_rectangle(corners) < EXACT
    for at, name in enumerate(image.objects.names):
        inner = f'<attribute name="difficult">{difficult[at]}</attribute>' if difficult[at] else ""
        inner += f'<attribute name="score">{float(scores[at])!r}</attribute>' if math.isfinite(scores[at]) else ""
        if plain[at]:
            cx, cy, w, h, angle = boxes[at].tolist()
            ends = {"xtl": cx - w / 2, "ytl": cy - h / 2, "xbr": cx + w / 2, "ybr": cy + h / 2}
            place = " ".join(f'{key}="{tell(value, 5)}"' for key, value in ends.items())
            degrees = tell(math.degrees(angle) % 360, 7)
            tag, place = "box", place + (f' rotation="{degrees}"' if degrees not in ("0", "360") else "")
        else:
            pairs = ";".join(f"{tell(x)},{tell(y)}" for x, y in corners[at])
            tag, place = "polygon", f'points="{pairs}"'
        yield f'    <{tag} label={xml_attribute(name)} source="manual" occluded="0" {place} z_order="0">{inner}</{tag}>'
