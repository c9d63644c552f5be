"""Pascal VOC: one XML file an image in Annotations/, images in JPEGImages/, upright boxes.

Coordinates are taken and given as they are, in pixels from 0; VOC's own began at 1, which few files since have done.
"""

from pathlib import Path

import numpy as np

from rotanext.errors import Problems
from rotanext.labels.annotation_xml import coordinates, read_folder, write_folder
from rotanext.labels.dataset import LabelSet
from rotanext.labels.values import Element, tell, upright_box

_ENDS = ("xmin", "ymin", "xmax", "ymax")


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read a VOC folder or one file; upright boxes as four corners. What is no label goes to `problems`."""
    return read_folder(source, images, problems, shape, "Pascal VOC")


def shape(element: Element) -> tuple[np.ndarray, bool]:
    """Corners `[4, 2]` of an <object> with <bndbox>; raises `Invalid`."""
    left, top, right, bottom = coordinates(element.child("bndbox"), _ENDS)
    return upright_box(left, top, right, bottom), True


def write(target: Path, data: LabelSet) -> None:
    """Write the set, whose objects are upright; a subset is a folder of its own."""
    write_folder(target, data, "bndbox", _tell)


def _tell(corners: np.ndarray) -> str:
    values = [*corners.min(0), *corners.max(0)]
    inner = "".join(f"<{name}>{tell(value)}</{name}>" for name, value in zip(_ENDS, values, strict=True))
    return f"<bndbox>{inner}</bndbox>"
