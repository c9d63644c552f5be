"""HRSC2016: one XML file an image in Annotations/, images in AllImages/; rectangles by centre, sides and angle.

The angle is in radians, clockwise on the screen. A class is a number (`100000005`); its name is taken from an element `Class_Name`
where there is one, as in the files written here.
"""

import math
from pathlib import Path

from rotanext.errors import Problems, UserError
from rotanext.labels.annotation_xml import coordinates
from rotanext.labels.dataset import (
    ImageFiles,
    LabelledImage,
    LabelSet,
    Shapes,
    existing,
    finished,
    nothing_read,
    size_of,
    subset_folders,
)
from rotanext.labels.values import Invalid, class_name, flag, half_turn, image_name, read_xml, side, tell, xml_text
from rotanext.polygons import as_rectangles, boxes_to_corners
from rotanext.system.files import write_bytes

_FIELDS = ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")
_FIRST_ID = 100_000_001


def read(source: Path, images: Path | None, problems: Problems) -> LabelSet:
    """Read an HRSC2016 folder or one file. What is no label goes to `problems`; raises `UserError` if nothing is left."""
    existing(source, "a folder of HRSC2016 files")
    data = LabelSet()
    given = ImageFiles([images]) if images is not None else None
    for subset, root in subset_folders(source, ("Annotations",)) or [("", source)]:
        folder = root.parent if root.is_file() else root
        files = given or ImageFiles([folder / "AllImages" if (folder / "AllImages").is_dir() else folder])
        inner = root / "Annotations" if (root / "Annotations").is_dir() else root
        paths = [root] if root.is_file() else sorted(path for path in inner.iterdir() if path.suffix.lower() == ".xml")
        for path in paths:
            try:
                data.images.append(_read_one(path, files, subset, problems))
            except UserError as error:
                problems.note(str(error))
            except Invalid as fault:
                problems.add(path, fault.found, fault.expected, fault.advice)
        data.unlabelled += [] if given else files.unused()
    data.unlabelled += given.unused() if given else []
    if not data.images:
        raise nothing_read(source, "HRSC2016 files", problems)
    return finished(data, problems)


def _read_one(path: Path, files: ImageFiles, subset: str, problems: Problems) -> LabelledImage:
    root = read_xml(path, ("HRSC_Image",))
    name = image_name(path.stem)
    file = files.find(name, subset)
    suffix = root.value("Img_FileFmt", "").lower()
    claimed = (0, 0)
    if root.all("Img_SizeWidth"):
        claimed = side(root.value("Img_SizeWidth")), side(root.value("Img_SizeHeight"))
    size = size_of(file, claimed, path, problems)
    shapes = Shapes()
    for element in root.child("HRSC_Objects").all("HRSC_Object") if root.all("HRSC_Objects") else []:
        try:
            cx, cy, w, h, angle = coordinates(element, _FIELDS)
            if w < 0 or h < 0:
                raise Invalid(f"sides of {w:g} x {h:g}", "sides from 0")
            kind = class_name(element.value("Class_Name", "") or element.value("Class_ID"))
            shapes.add(boxes_to_corners([cx, cy, w, h, angle]), kind, element.line, int(flag(element.value("difficult", "0"))))
        except Invalid as fault:
            problems.add(path, fault.found, fault.expected, fault.advice, element.line)
    full = f"{name}.{suffix}" if suffix.isalnum() and len(suffix) < 5 else name
    return shapes.image(file.name if file else full, size, path, file, subset)


def write(target: Path, data: LabelSet) -> None:
    """Write the set, whose objects are rectangles; a subset is a folder of its own. A name that is a number is its class's."""
    ids = {name: name if name.isdecimal() else str(_FIRST_ID + index) for index, name in enumerate(data.class_names)}
    for image in data.images:
        folder = target / image.subset / "Annotations"
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / f"{image.stem}.xml", _tell(image, ids).encode())


def _tell(image: LabelledImage, ids: dict[str, str]) -> str:
    suffix = Path(image.name).suffix[1:] if image.stem != image.name else ""
    lines = [
        "<HRSC_Image>",
        f"  <Img_FileName>{xml_text(image.stem)}</Img_FileName>",
        f"  <Img_FileFmt>{suffix}</Img_FileFmt>",
        f"  <Img_SizeWidth>{image.width}</Img_SizeWidth>",
        f"  <Img_SizeHeight>{image.height}</Img_SizeHeight>",
        "  <Img_SizeDepth>3</Img_SizeDepth>",
        "  <HRSC_Objects>",
    ]
    objects = image.objects
    boxes = as_rectangles(objects.corners)
    for corners, box, name, difficult in zip(objects.corners, boxes, objects.names, objects.difficult.tolist(), strict=True):
        values = [*map(tell, box[:4]), tell(float(half_turn(box[4], -math.pi / 2)), 9)]
        ends = zip(("box_xmin", "box_ymin", "box_xmax", "box_ymax"), map(tell, [*corners.min(0), *corners.max(0)]), strict=True)
        lines += [
            "    <HRSC_Object>",
            f"      <Class_ID>{ids[name]}</Class_ID>",
            f"      <Class_Name>{xml_text(name)}</Class_Name>",
            f"      <truncated>{int(difficult == 2)}</truncated>",
            f"      <difficult>{int(difficult == 1)}</difficult>",
            *(f"      <{key}>{value}</{key}>" for key, value in ends),
            *(f"      <{key}>{value}</{key}>" for key, value in zip(_FIELDS, values, strict=True)),
            "    </HRSC_Object>",
        ]
    return "\n".join([*lines, "  </HRSC_Objects>", "</HRSC_Image>", ""])
