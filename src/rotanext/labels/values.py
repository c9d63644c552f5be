"""Values of label files that somebody else wrote: safe XML and JSON, checked numbers, names and outlines."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from rotanext.errors import UserError, explain, shortened
from rotanext.labels.dataset import LONGEST_NAME, Invalid, plain_name
from rotanext.objects import FARTHEST
from rotanext.polygons import least_rectangle, upright, wrap_angle

LARGEST_SIDE = 1_000_000
_DEEPEST = 60
_LARGEST_FILE = 2 << 30


@dataclass
class Element:
    """An element of an XML file, and the line it begins in."""

    tag: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, tag: str) -> list["Element"]:
        """Its children of that name."""
        return [child for child in self.children if child.tag == tag]

    def child(self, tag: str) -> "Element":
        """Its first child of that name; raises `Invalid`."""
        for child in self.children:
            if child.tag == tag:
                return child
        raise Invalid(f"<{self.tag}> without <{tag}>", f"<{tag}> in it")

    def value(self, tag: str, missing: str | None = None) -> str:
        """The text in its first child of that name, or `missing`; raises `Invalid`."""
        if missing is not None and not self.all(tag):
            return missing
        return self.child(tag).text.strip()

    def attribute(self, name: str) -> str:
        """That attribute; raises `Invalid`."""
        if name not in self.attributes:
            raise Invalid(f"<{self.tag}> without {name}", f'{name}="..." in it')
        return self.attributes[name]


class _Builder:
    """Builds elements from expat's events; refuses document types, and with them entities."""

    def __init__(self, path: Path) -> None:
        self.path, self.stack = path, list[Element]()
        self.root: Element | None = None
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.texts: list[list[str]] = []

    def _refuse(self, *_: object) -> None:
        advice = "Remove the DOCTYPE line."
        raise UserError(explain(self.path, "a document type or entities", "plain XML", advice, self.parser.CurrentLineNumber))

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, self.parser.CurrentLineNumber)
        if len(self.stack) >= _DEEPEST:
            found = f"elements nested more than {_DEEPEST} deep"
            raise UserError(explain(self.path, found, "a label file", "Check the file.", element.line))
        if self.stack:
            self.stack[-1].children.append(element)
        else:
            self.root = element
        self.stack.append(element)
        self.texts.append([])

    def _end(self, tag: str) -> None:
        self.stack.pop().text = "".join(self.texts.pop())

    def _text(self, text: str) -> None:
        if self.texts:
            self.texts[-1].append(text)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; `UserError` where it cannot be read or is huge."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UserError(explain(path, f"{path.stat().st_size} bytes", "a label file of less than 2 GB", "Split it."))
        return path.read_bytes()
    except OSError as error:
        found = f"that it cannot be read ({error.strerror or error})"
        raise UserError(explain(path, found, "a label file", "Check the path and its permissions.")) from None


def read_xml(path: Path, root: tuple[str, ...]) -> Element:
    """The root element of an XML file, one of those names; `UserError` for anything else, also document types."""
    data = read_bytes(path)
    builder = _Builder(path)
    try:
        builder.parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # also encodings that Python does not know
        line = builder.parser.ErrorLineNumber
        raise UserError(explain(path, f"what is no XML ({error})", f"<{root[0]}>", "Write the file again.", line)) from None
    found = builder.root
    assert found is not None
    if found.tag not in root:
        raise UserError(explain(path, f"<{shortened(found.tag)}>", f"<{root[0]}>", "Check the file and --from.", found.line))
    return found


def read_json(path: Path) -> Any:
    """What a JSON file holds; `UserError` where it is none."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are not UTF-8
        raise UserError(explain(path, f"a file that is no JSON ({shortened(str(error))})", "JSON", "Write it again.")) from None


def number(value: object, what: str = "a number", most: float = FARTHEST) -> float:
    """A finite number not larger than `most` either side of 0, from a number or a text; raises `Invalid`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        raise Invalid(_shown(value), what)
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise Invalid(_shown(value), what) from None
    if not math.isfinite(result) or abs(result) > most:
        raise Invalid(_shown(value), f"{what} (finite, at most {most:g})")
    return result


def side(value: object, what: str = "the image's width and height in pixels") -> int:
    """An image's width or height: a whole number from 1; raises `Invalid`."""
    result = number(value, what, LARGEST_SIDE)
    if result < 1 or result != int(result):
        raise Invalid(_shown(value), what)
    return int(result)


def class_name(value: object) -> str:
    """A class: a printable text of reasonable length; raises `Invalid`."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        raise Invalid(_shown(value), f"a class name of at most {LONGEST_NAME} printable characters")
    return text


def image_name(value: object) -> str:
    """The name of an image's file, folders before it with slashes; raises `Invalid`."""
    name = plain_name(value) if isinstance(value, str) else None
    if name is None:
        raise Invalid(_shown(value), "the name of an image's file")
    return name


def flag(value: object) -> bool:
    """Yes or no, as 0, 1, true, false or the like; raises `Invalid`."""
    text = str(value).strip().lower() if isinstance(value, str | int | bool) and len(str(value)) < 20 else "?"
    if text not in ("0", "1", "true", "false", "yes", "no", ""):
        raise Invalid(_shown(value), "0 or 1")
    return text in ("1", "true", "yes")


def level(value: object) -> int:
    """A difficulty: 0, 1 or 2; raises `Invalid`."""
    text = str(value).strip() if isinstance(value, str | int) and len(str(value)) < 20 else "?"
    if text == "2":
        return 2
    try:
        return int(flag(value))
    except Invalid:
        raise Invalid(_shown(value), "a difficulty of 0, 1 or 2") from None


def points(values: object) -> np.ndarray:
    """Points `[K, 2]`, K >= 3, from pairs, or from x and y by turns; raises `Invalid`."""
    if not isinstance(values, list):
        raise Invalid(f"an outline that is {_shown(values)}", "a list of points")
    if all(isinstance(pair, list | tuple) for pair in values):
        if any(len(pair) != 2 for pair in values):
            raise Invalid("a point that has not two numbers", "[x, y]")
        values = [value for pair in values for value in pair]
    if len(values) % 2 or len(values) < 6:
        raise Invalid(f"an outline of {len(values)} numbers", "x and y of at least three points")
    return np.array([number(value, "coordinates in pixels") for value in values]).reshape(-1, 2)


def upright_box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Corners `[4, 2]` of an upright box; raises `Invalid` where its ends are the wrong way round."""
    if right < left or bottom < top:
        raise Invalid(f"a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})", "left before right and top before bottom")
    return upright((left, top), (right, bottom))


def four_corners(outline: np.ndarray) -> tuple[np.ndarray, bool]:
    """Corners `[4, 2]` of an outline `[K, 2]`, and whether they are the outline itself; a repeated last point doesn't count.

    Of another number of points, those of the rectangle of least area around them; raises `Invalid` where they enclose no area.
    """
    if len(outline) == 5 and (outline[0] == outline[-1]).all():
        outline = outline[:-1]
    if len(outline) == 4:
        return outline, True
    found = least_rectangle(outline)
    if found is None:
        raise Invalid("an outline that encloses no area", "a polygon")
    return found, False


def half_turn(angle: np.ndarray | float, start: float) -> np.ndarray:
    """Angles (radians) in [start, start + pi), also once they are written with nine digits; the same line, if not direction."""
    return wrap_angle(angle, start, 1e-8)


def items(value: object, what: str) -> list[Any]:
    """A list; raises `Invalid`."""
    if not isinstance(value, list):
        raise Invalid(f"{what} that are {_shown(value)}", "a list")
    return value


def record(value: object, what: str) -> dict[str, Any]:
    """An object of JSON; raises `Invalid`."""
    if not isinstance(value, dict):
        raise Invalid(f"{what} that is {_shown(value)}", "an object with keys")
    return value


def _shown(value: object) -> str:
    """A value from a file, short whatever it is."""
    if isinstance(value, str):
        return repr(value[:60])
    if value is None or isinstance(value, bool | float):
        return "nothing" if value is None else str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number of many digits"
    return f"a {type(value).__name__}"


def tell(value: float, digits: int = 4) -> str:
    """A number for a file: rounded, without needless zeros or a minus before 0."""
    text = f"{round(float(value), digits) + 0.0:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def xml_text(text: str) -> str:
    """A text as it stands in XML."""
    return escape(text)


def xml_attribute(text: str) -> str:
    """A text as it stands in an attribute of XML, with its quotation marks."""
    return quoteattr(text)
