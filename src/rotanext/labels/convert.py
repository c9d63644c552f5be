"""`rotanext labels convert`: labels of one format in another, and what the other cannot hold."""

import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rotanext.errors import Problems, UserError, counted, explain
from rotanext.labels import coco, cvat, dior, dota_text, hrsc, label_studio, labelme, rolabelimg, voc, yolo
from rotanext.labels.dataset import LabelledImage, LabelSet
from rotanext.labels.values import half_turn
from rotanext.polygons import as_rectangles, boxes_to_corners, corner_distance, least_rectangles, off_rectangle, upright
from rotanext.system.files import part_beside

_NO_RECTANGLE = 0.01  # pixels a corner may be off before it is told
PLACINGS = ("link", "copy", "none")


class Format(NamedTuple):
    """A label format: how it is read and written, what it holds, and where its images lie."""

    read: Callable[[Path, Path | None, Problems], LabelSet]
    write: Callable[[Path, LabelSet], None]
    what: str
    folder: str  # of the images, below OUT; {} stands for the subset
    shape: Literal["any", "rectangle", "upright"] = "any"
    half_turn: float | None = None  # where its angles start, if a rectangle and the same one turned by 180 degrees are one to it
    difficult: int = 0  # 0: none, 1: yes or no, 2: all three kinds
    scores: bool = False
    spaces: bool = True  # in names of classes
    sizes: bool = True  # needs the images' sizes


FORMATS: dict[str, Format] = {
    "dota": Format(
        dota_text.read, dota_text.write, "DOTA text", "{}/images", difficult=2, spaces=False, sizes=False
    ),
    "yolo-obb": Format(yolo.read, yolo.write, "YOLO-OBB", "images/{}", scores=True),
    "coco": Format(coco.read, coco.write, "COCO, outlines", "images/{}", difficult=2, scores=True),
    "coco-rbox": Format(
        coco.read, coco.write_turned, "COCO, boxes of five values", "images/{}", "rectangle", difficult=2, scores=True
    ),
    "rolabelimg": Format(rolabelimg.read, rolabelimg.write, "roLabelImg XML", "{}", "rectangle", 0.0, difficult=1),
    "hrsc": Format(hrsc.read, hrsc.write, "HRSC2016 XML", "{}/AllImages", "rectangle", -math.pi / 2, difficult=1),
    "dior-r": Format(dior.read, dior.write, "DIOR-R XML", "{}/JPEGImages", difficult=1),
    "cvat": Format(cvat.read, cvat.write, "CVAT for images 1.1", "images/{}", difficult=2, scores=True),
    "labelme": Format(labelme.read, labelme.write, "LabelMe JSON", "{}", difficult=2, scores=True),
    "label-studio": Format(label_studio.read, label_studio.write, "Label Studio JSON", "images/{}", scores=True),
    "voc": Format(voc.read, voc.write, "Pascal VOC XML", "{}/JPEGImages", "upright", difficult=1),
}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote, and a line for everything that changed on the way."""

    images: int
    objects: int
    class_names: tuple[str, ...]
    lost: tuple[str, ...]
    subsets: tuple[tuple[str, int], ...]  # (name, images), none where there is only one without a name

    def lines(self, skipped: bool = False) -> list[str]:
        """What the terminal says of it, below its first line; `skipped`: whether some of the source could not be read."""
        changed = [line if line.startswith("note: ") else f"lost: {line}" for line in self.lost]
        whole = not any(line.startswith("lost: ") for line in changed)
        subsets = [", ".join(f"{name}: {number}" for name, number in self.subsets)] if self.subsets else []
        return [*subsets, *changed, *["of what was read, nothing was lost" if skipped else "nothing was lost"] * whole]

    def text(self) -> str:
        """Counts, in a line."""
        held = f"{counted(self.objects, 'object')} of {counted(len(self.class_names), 'class')}"
        return f"{counted(self.images, 'image')} with {held}"


def find_format(name: str, option: str) -> Format:
    """The format of that name; raises `UserError` with the nearest one."""
    if name not in FORMATS:
        import difflib

        near = difflib.get_close_matches(name.lower(), FORMATS, 1, 0)
        raise UserError(f"{option} is '{name}'; nearest: '{near[0]}'; all: {', '.join(FORMATS)}")
    return FORMATS[name]


def convert_labels(
    source: Path,
    target: Path,
    from_format: str,
    to_format: str,
    *,
    images: Path | None = None,
    placing: str = "link",
    overwrite: bool = False,
    problems: Problems | None = None,
) -> Conversion:
    """Write the labels of `source` to the folder `target` in another format; returns what was written and what was lost.

    images: where the images lie, if not where the format has them. placing: the new layout gets symbolic links to them, copies,
    or none. Labels that are none, and images without a size where the format needs it, go to `problems`. Raises `UserError` for a
    source that holds no labels, and a target that is in use.
    """
    reader, writer = find_format(from_format, "--from"), find_format(to_format, "--to")
    problems = Problems() if problems is None else problems
    if placing not in PLACINGS:
        raise UserError(f"--place-images is '{placing}'; expected link, copy or none")
    if images is not None and not images.is_dir():
        raise UserError(explain(images, "no such folder", "the folder of the images", "Check --images."))
    _check_target(source, images, target, overwrite)
    data = reader.read(source, images, problems)
    data, lost = fit(data, writer, problems)
    if not data.images:
        raise UserError(explain(source, "no image that could be converted", "at least one", " ".join(problems.first[:1])))
    target.mkdir(parents=True, exist_ok=True)
    writer.write(target, data)
    if placing != "none":
        _place_images(target, data, writer, placing == "copy")
    if data.unlabelled:
        lost.append(f"images: {len(data.unlabelled)} have no labels and were left out ({data.unlabelled[0].name}, ...)")
    subsets = Counter(image.subset or "in none" for image in data.images) if any(data.subsets) else Counter[str]()
    return Conversion(len(data.images), data.count, tuple(data.class_names), (*data.notes, *lost), tuple(sorted(subsets.items())))


def _check_target(source: Path, images: Path | None, target: Path, overwrite: bool) -> None:
    inner = target.resolve()
    for path in (source, images) if images is not None else (source,):
        outer = path.resolve()
        # a file's images are looked for in its folder, where those of an earlier conversion would be found, too
        beside = path.is_file() and overwrite and outer.parent in inner.parents
        if inner == outer or outer in inner.parents or (inner in outer.parents and overwrite) or beside:
            raise UserError(explain(target, f"a target inside or around {path}", "another one", "Choose one beside it."))
    if target.exists() and not target.is_dir():
        raise UserError(explain(target, "a file", "a folder to write to", "Choose another one."))
    if not overwrite and target.is_dir() and any(target.iterdir()):
        advice = "Choose another one, or write into it with --overwrite; what else is there stays."
        raise UserError(explain(target, "files in the target", "a new or empty folder", advice))


def _place_images(target: Path, data: LabelSet, writer: Format, copied: bool) -> None:
    for image in data.images:
        if image.file is None:
            continue
        place = target / writer.folder.format(image.subset).strip("/") / image.name
        place.parent.mkdir(parents=True, exist_ok=True)
        part = part_beside(place)
        try:
            if place.exists() and not place.is_symlink() and place.samefile(image.file):
                continue  # the image itself
            part.unlink(missing_ok=True)
            if copied:
                shutil.copyfile(image.file, part)
            else:
                part.symlink_to(os.path.abspath(image.file))  # noqa: PTH100 - resolve() would follow links of the source
            part.replace(place)
        except OSError as error:
            found = f"that no {'copy' if copied else 'link'} of {image.file} can be made ({error.strerror or error})"
            advice = "Make room." if copied else "Use --place-images copy or none."
            raise UserError(explain(place, found, "a place that takes it", advice)) from None


def fit(data: LabelSet, form: Format, problems: Problems) -> tuple[LabelSet, list[str]]:
    """The set as a format can hold it, and a line for everything that is lost; its `write` then loses nothing more."""
    kept = []
    for image in data.images:
        if form.sizes and not image.width:
            found = f"no size of the image {image.name}"
            advice = "Add the image, or say where it lies with --images."
            problems.add(image.label or image.name, found, f"its width and height, which {form.what} needs", advice)
        else:
            kept.append(image)
    result = LabelSet(kept, data.class_names, data.notes, data.unlabelled)
    lost = [*_fit_names(result, form), *_fit_shapes(result, form), *_fit_marks(result, form)]
    return result, [line for line in lost if line]


def _fit_names(data: LabelSet, form: Format) -> list[str]:
    if form.spaces or not any(" " in name for name in data.class_names):
        return []
    new = {name: name.replace(" ", "-") for name in data.class_names}
    if len(set(new.values())) < len(new):
        raise UserError(f"classes that differ only in spaces and hyphens ({', '.join(new)}) cannot be told apart in {form.what}")
    changed = [f"{old!r} is {name!r}" for old, name in new.items() if old != name]
    data.class_names = list(new.values())
    data.images = [replace(p, objects=replace(p.objects, names=[new[name] for name in p.objects.names])) for p in data.images]
    return [f"spaces in names of classes: {', '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}"]


def _fit_shapes(data: LabelSet, form: Format) -> list[str]:
    if form.shape == "any":
        return []
    total, odd, worst, order, angles = data.count, 0, 0.0, 0, 0
    images = []
    for image in data.images:
        corners = image.objects.corners
        if form.shape == "upright":
            low, high = corners.min(1), corners.max(1)
            new = upright(low, high)
            far = corner_distance(corners, new)
            angles, worst = angles + int((far > _NO_RECTANGLE).sum()), max(worst, float(far.max(initial=0)))
            far = np.zeros(len(corners))
        else:
            exact = off_rectangle(corners) < _NO_RECTANGLE
            new = np.where(exact[:, None, None], boxes_to_corners(as_rectangles(corners)), least_rectangles(corners))
            new = new if form.half_turn is None else _half(new, form.half_turn)
            far = corner_distance(corners, new)
            worst = max(worst, float(far.max(initial=0)))
        odd += int((far > _NO_RECTANGLE).sum())
        order += int(((far <= _NO_RECTANGLE) & (np.linalg.norm(new - corners, axis=2).max(1, initial=0) > 2 * _NO_RECTANGLE)).sum())
        images.append(replace(image, objects=replace(image.objects, corners=new)))
    data.images = images
    lines = []
    if angles:
        lines.append(f"angles: {angles} of {total} objects are not upright, and became the upright box around them "
                     f"(corners move by up to {worst:.2g} px)")  # fmt: skip
    if odd:
        lines.append(f"shapes: {odd} of {total} quadrilaterals are no rectangles, and became the rectangle of least area around "
                     f"them (corners move by up to {worst:.2g} px)")  # fmt: skip
    if order and form.shape == "rectangle":
        lines.append(f"first corners: {order} of {total} objects begin at another corner, or run the other way round")
    return lines


def _half(corners: np.ndarray, start: float) -> np.ndarray:
    """The same rectangles with the angle of their first side in [start, start + pi): begun at the opposite corner where needed."""
    angle = as_rectangles(corners)[:, 4]
    flip = np.cos(half_turn(angle, start) - angle) < 0
    return np.where(flip[:, None, None], np.roll(corners, 2, 1), corners)


def _fit_marks(data: LabelSet, form: Format) -> list[str]:
    lines = []
    levels = np.concatenate([np.zeros(0, np.int64), *(image.objects.difficult for image in data.images)])
    hard, cut = int((levels == 1).sum()), int((levels == 2).sum())
    if form.difficult == 0 and hard + cut:
        lines.append(
            f"difficulty: {hard + cut} objects marked difficult or cut become ordinary ones, which training and scores count"
        )
    elif form.difficult == 1 and cut:
        lines.append(f"cut objects: {cut} marked 2 (cut by a tile's border) become `truncated`, which reads back as ordinary")
    if form.difficult < 2:
        data.images = [_with_levels(image, form.difficult) for image in data.images]
    scored = sum(int(np.isfinite(image.scores).sum()) for image in data.images)
    if scored and not form.scores:
        lines.append(f"scores: {scored} objects have one, which {form.what} has no place for")
        data.images = [replace(image, scores=np.full(len(image.objects), np.nan)) for image in data.images]
    if form is FORMATS["yolo-obb"]:
        beyond = sum(int(_beyond(image).sum()) for image in data.images)
        if beyond:
            lines.append(f"note: {beyond} objects reach beyond their image: Ultralytics leaves out every image with "
                         "one, other tools don't")  # fmt: skip
    return lines


def _with_levels(image: LabelledImage, most: int) -> LabelledImage:
    """Difficulty as the format reads it back: none, or yes and no (cut objects are written as such, and read as ordinary)."""
    if most == 0:
        return replace(image, objects=replace(image.objects, difficult=np.zeros_like(image.objects.difficult)))
    return image


def _beyond(image: LabelledImage) -> np.ndarray:
    corners = image.objects.corners
    return np.asarray(((corners < 0) | (corners > (image.width, image.height))).any((1, 2)))
