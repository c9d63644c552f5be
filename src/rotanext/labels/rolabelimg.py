"""roLabelImg: one XML file an image, beside it; rectangles as centre, width, height and angle.

The angle is in radians, clockwise on the screen, in [0, pi): that of the width against the x axis.
"""

from pathlib import Path

import numpy as np

from rotanext.errors import Problems
from rotanext.labels import voc
from rotanext.labels.annotation_xml import coordinates, read_folder, write_folder
from rotanext.labels.dataset import LabelSet
from rotanext.labels.values import Element, Invalid, half_turn, tell
from rotanext.polygons import as_rectangles, boxes_to_corners

_FIELDS = ("cx", "cy", "w", "h", "angle")


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read a folder of roLabelImg's files or one file; its upright <bndbox> objects, too. What is no label goes to `problems`."""
    return read_folder(source, images, problems, _shape, "roLabelImg")


def _shape(element: Element) -> tuple[np.ndarray, bool]:
    if not element.all("robndbox") and element.all("bndbox"):
        return voc.shape(element)
    box = element.child("robndbox")
    if box.all("x_left_top"):
        raise Invalid("a robndbox of eight coordinates", "cx, cy, w, h and angle", "That is DIOR-R's: --from dior-r.")
    cx, cy, w, h, angle = coordinates(box, _FIELDS)
    if w < 0 or h < 0:
        raise Invalid(f"sides of {w:g} x {h:g}", "sides from 0")
    return boxes_to_corners([cx, cy, w, h, angle]), True


def write(target: Path, data: LabelSet) -> None:
    """Write the set, whose objects are rectangles; a subset is a folder of its own."""
    write_folder(target, data, "robndbox", _tell, "")


def _tell(corners: np.ndarray) -> str:
    cx, cy, w, h, angle = as_rectangles(corners[None])[0]
    values = [*map(tell, (cx, cy, w, h)), tell(float(half_turn(angle, 0.0)), 9)]
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in zip(_FIELDS, values, strict=True))
    return f"<robndbox>{inner}</robndbox>"
