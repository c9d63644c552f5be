"""What Pascal VOC, roLabelImg and DIOR-R share: a folder with one XML file an image, its name, its size and its objects."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rotanext.errors import Problems, UserError
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
from rotanext.labels.values import Element, Invalid, class_name, flag, image_name, number, read_xml, side, xml_text
from rotanext.system.files import write_bytes

# The corners `[4, 2]` of an <object>, and whether they stand there as they are.
Shape = Callable[[Element], tuple[np.ndarray, bool]]
_FOLDERS = ("Annotations", "annotations", "labels")
_ORIENTED = ("Oriented Bounding Boxes", "Oriented_Bounding_Boxes")
_SUBSETS = ("train", "val", "test")  # trainval says nothing about an image


def read_folder(source: Path, images: Path | None, problems: Problems, shape: Shape, expected: str) -> LabelSet:
    """Every XML file of a folder (`Annotations` in it, or in each subset's folder), or one file."""
    existing(source, f"a folder of {expected} files")
    data = LabelSet()
    parts = subset_folders(source, _FOLDERS) or [("", source)]
    if parts == [("", source)] and source.is_dir() and not _files(source):
        parts = [(folder.name, folder) for folder in sorted(source.iterdir()) if folder.is_dir() and _files(folder)]
    given = ImageFiles([images]) if images is not None else None
    for subset, root in parts:
        folder = root.parent if root.is_file() else root
        files = given or ImageFiles(sorted(path for path in folder.glob("JPEGImages*") if path.is_dir()) or [folder])
        lists = _lists(folder)
        for path in [root] if root.is_file() else _files(root):
            try:
                data.images.append(_read_one(path, files, subset, lists, problems, shape))
            except UserError as error:
                problems.note(str(error))
            except Invalid as fault:
                problems.add(path, fault.found, fault.expected, fault.advice)
        data.unlabelled += [] if given else files.unused()
    data.unlabelled += given.unused() if given else []
    if not data.images:
        raise nothing_read(source, f"{expected} files", problems)
    return finished(data, problems)


def _files(root: Path) -> list[Path]:
    folder = next((root / name for name in _FOLDERS if (root / name).is_dir()), root)
    folder = next((folder / name for name in _ORIENTED if (folder / name).is_dir()), folder)
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".xml" and not path.name.startswith("."))


def _lists(root: Path) -> dict[str, str]:
    """The subset of each stem in the lists of VOC's ImageSets/Main."""
    found: dict[str, str] = {}
    for subset in _SUBSETS:
        path = root / "ImageSets" / "Main" / f"{subset}.txt"
        if path.is_file():
            found.update((line.strip(), subset) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return found


def _read_one(path: Path, files: ImageFiles, subset: str, lists: dict[str, str], problems: Problems, shape: Shape) -> LabelledImage:
    root = read_xml(path, ("annotation",))
    subset = subset or lists.get(path.stem, "")
    # The file's own name leads to the image; what stands inside is often from another machine, or of a copy.
    name = image_name(path.stem)
    file = files.find(name, subset)
    if file is None and root.all("filename"):
        written = image_name(root.value("filename"))
        file = files.find(written, subset)
        name = written.rpartition("/")[2] if file is not None or written.startswith(f"{name}.") else name
    claimed = (0, 0)
    if root.all("size"):
        width, height = (root.child("size").value(key, "0") for key in ("width", "height"))
        claimed = (0, 0) if {width, height} & {"", "0"} else (side(width), side(height))
    size = size_of(file, claimed, path, problems)
    shapes = Shapes()
    for element in root.all("object"):
        try:
            corners, _ = shape(element)
            shapes.add(corners, class_name(element.value("name")), element.line, int(flag(element.value("difficult", "0"))))
        except Invalid as fault:
            problems.add(path, fault.found, fault.expected, fault.advice, element.line)
    return shapes.image(file.name if file else name, size, path, file, subset)


def coordinates(element: Element, names: tuple[str, ...]) -> list[float]:
    """The numbers in the children of these names; raises `Invalid`."""
    return [number(element.value(name), f"a number in <{name}>") for name in names]


def write_folder(target: Path, data: LabelSet, kind: str, shape: Callable[[np.ndarray], str], inner: str = "Annotations") -> None:
    """One XML file an image; `shape` gives what stands for corners `[4, 2]`. Lists for ImageSets/Main, too."""
    for subset in data.subsets:
        folder = target / subset / inner
        folder.mkdir(parents=True, exist_ok=True)
        images = [image for image in data.images if image.subset == subset]
        for image in images:
            write_bytes(folder / f"{image.stem}.xml", "".join(_lines(image, kind, shape)).encode())
        if not inner:
            continue
        lists = target / subset / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        write_bytes(lists / "trainval.txt", "".join(f"{image.stem}\n" for image in images).encode())


def _lines(image: LabelledImage, kind: str, shape: Callable[[np.ndarray], str]) -> Iterator[str]:
    yield f"<annotation>\n  <filename>{xml_text(image.name)}</filename>\n  <source><database>Unknown</database></source>\n"
    yield f"  <size>\n    <width>{image.width}</width>\n    <height>{image.height}</height>\n    <depth>3</depth>\n  </size>\n"
    yield "  <segmented>0</segmented>\n"
    objects = image.objects
    for corners, name, difficult in zip(objects.corners, objects.names, objects.difficult.tolist(), strict=True):
        yield f"  <object>\n    <type>{kind}</type>\n    <name>{xml_text(name)}</name>\n    <pose>Unspecified</pose>\n"
        yield f"    <truncated>{int(difficult == 2)}</truncated>\n    <difficult>{int(difficult == 1)}</difficult>\n"
        yield f"    {shape(corners)}\n  </object>\n"
    yield "</annotation>\n"
