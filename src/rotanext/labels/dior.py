"""DIOR-R: one XML file an image in `Annotations/Oriented Bounding Boxes/`, quadrilaterals by their four corners."""

from pathlib import Path

import numpy as np

from rotanext.errors import Problems
from rotanext.labels.annotation_xml import coordinates, read_folder, write_folder
from rotanext.labels.dataset import LabelSet
from rotanext.labels.values import Element, Invalid, tell

_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")
_FIELDS = tuple(f"{axis}_{corner}" for corner in _CORNERS for axis in "xy")


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read a DIOR-R folder or one file. What is no label goes to `problems`; raises `UserError` if nothing is left."""
    return read_folder(source, images, problems, _shape, "DIOR-R")


def _shape(element: Element) -> tuple[np.ndarray, bool]:
    box = element.child("robndbox")
    if box.all("angle"):
        raise Invalid("a robndbox with an angle", "eight coordinates", "That is roLabelImg's: --from rolabelimg.")
    return np.array(coordinates(box, _FIELDS)).reshape(4, 2), True


def write(target: Path, data: LabelSet) -> None:
    """Write the set; a subset is a folder of its own."""
    write_folder(target, data, "robndbox", _tell, "Annotations/Oriented Bounding Boxes")


def _tell(corners: np.ndarray) -> str:
    inner = "".join(f"<{name}>{tell(value)}</{name}>" for name, value in zip(_FIELDS, corners.reshape(-1), strict=True))
    return f"<robndbox>{inner}</robndbox>"
