"""DOTA: images/ and labelTxt/ with a text file an image, or such folders for each subset; quadrilaterals in pixels."""

from functools import partial
from pathlib import Path

import numpy as np

from rotanext.data.dota import list_labels, read_label_entries, write_objects
from rotanext.data.folder_advice import folder_advice, looks_like_yolo
from rotanext.data.index import READERS, READING
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
from rotanext.labels.values import Invalid, image_name
from rotanext.objects import Fault
from rotanext.system.progress import Track, untracked
from rotanext.system.readahead import read_ahead


def read(source: Path, images: Path | None, problems: Problems, track: Track = untracked) -> LabelSet:
    """Read a DOTA folder (text labels and footprints), whole quadrilaterals even where they are crossed or without area.

    Label files and image headers are read ahead in threads, each once. What is no label goes to `problems`; raises `UserError`
    where there is no label file.
    """
    existing(source, "a folder with images/ and labelTxt/")
    data = LabelSet()
    given = ImageFiles([images]) if images is not None else None
    for subset, root in subset_folders(source, ("labelTxt",)):
        files = given or ImageFiles([root / "images"])
        labels = list_labels(root / "labelTxt", problems)
        one = partial(_read_one, subset=subset, files=files, like=problems)
        ahead = read_ahead(labels.items(), one, threads=READERS, ahead=4 * READERS)
        for _, result in track(ahead, READING, len(labels)):
            if isinstance(result, UserError):
                raise result
            found, faults = result
            problems.merge(faults)
            data.images += found
        data.unlabelled += [] if given else files.unused()
    data.unlabelled += given.unused() if given else []
    if not data.images:
        advice = folder_advice(source) if looks_like_yolo(source) else "Check the folder and --from."
        raise nothing_read(source, "images/ and labelTxt/, or folders that hold them", problems, advice)
    return finished(data, problems)


def _read_one(item: tuple[str, Path], subset: str, files: ImageFiles, like: Problems) -> tuple[list[LabelledImage], Problems]:
    """A label file with the header of its image, if they are any, and what is wrong; raises `UserError` where `like` is strict."""
    (stem, path), problems = item, Problems(like.strict, like.keep)
    try:
        name = image_name(stem)
        file = files.find(name, subset)
        shapes = Shapes()
        for place, entry in read_label_entries(path, file):
            if isinstance(entry, Fault):
                problems.add(path, entry.found, entry.expected, entry.advice, place)
            else:
                shapes.add(np.array(entry.corners), entry.name, place, entry.difficult)
        size = size_of(file, (0, 0), path, problems, stored=True)
        return [shapes.image(file.name if file else name, size, path, file, subset)], problems
    except UserError as error:
        problems.note(str(error))
    except Invalid as fault:
        problems.add(path, fault.found, fault.expected, fault.advice)
    return [], problems


def write(target: Path, data: LabelSet) -> None:
    """Write the set, coordinates to 1e-4 pixel; a subset is a DOTA folder of its own."""
    for image in data.images:
        folder = target / image.subset / "labelTxt"
        folder.mkdir(parents=True, exist_ok=True)
        write_objects(folder / f"{image.stem}.txt", image.objects)
