"""Detection on files: pictures in; DOTA text and zip, JSON, and drawn pictures out."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rotanext.boxes import CONVENTION
from rotanext.data.dota import check_task1_target, write_task1, zip_task1
from rotanext.data.images import list_images, write_file
from rotanext.data.readahead import read_ahead
from rotanext.detections import Detections
from rotanext.detector import Detector
from rotanext.errors import Problems, UserError
from rotanext.files import make_folder
from rotanext.progress import Reporter
from rotanext.visualize import draw_detections

JPEG_ABOVE = 4_000_000  # pixels; smaller pictures are written as PNG
JPEG_SIDE = 65500  # the format's limit


@dataclass(frozen=True)
class PredictOptions:
    """What `predict` computes and writes."""

    score_threshold: float | None = None  # of the files; None: the model's configuration
    draw_threshold: float = 0.3
    batch_size: int = 1
    pictures: bool = True


def predict(
    detector: Detector,
    source: str | Path,
    target: Path,
    options: PredictOptions,
    problems: Problems,
    reporter: Reporter,
) -> dict[str, Detections]:
    """Detect on a file, a folder or a glob, and write everything below `target`; returns detections by picture name.

    Writes `Task1/Task1_<class>.txt` and `Task1.zip` for the DOTA server, `detections.json`, `pictures/`. A picture that cannot be
    read is a problem (skipped, or refused when strict); the others go on.
    """
    paths = list_images(source)
    check_task1_target(target / "Task1", detector.class_names)
    make_folder(target)
    found: dict[str, Detections] = {}
    named: dict[str, Path] = {}
    try:
        _detect_each(detector, paths, target, options, problems, reporter, found, named)
    finally:  # Ctrl-C, a full disk or a refused picture must not lose what was found before
        if found:
            write_task1(target / "Task1", found, detector.class_names)
            zip_task1(target / "Task1")
            write_json(target / "detections.json", found, named, detector.class_names)
    if not found:
        raise UserError("\n".join([f"none of the pictures in {source} could be read", *problems.first]))
    return found


def _detect_each(
    detector: Detector,
    paths: list[Path],
    target: Path,
    options: PredictOptions,
    problems: Problems,
    reporter: Reporter,
    found: dict[str, Detections],
    named: dict[str, Path],
) -> None:
    """Detect on every file, adding to `found` and `named` as it goes."""
    for path, image in read_ahead(reporter.track(paths, "detecting"), lambda path: path):
        if isinstance(image, UserError):
            problems.note(str(image))
            continue
        if path.stem in named:
            problems.add(
                path,
                f"the name '{path.stem}' a second time",
                f"one picture of a name ({named[path.stem]})",
                "Rename one; DOTA files tell pictures apart by their names alone.",
            )
            continue
        named[path.stem] = path
        found[path.stem] = detector(image, score_threshold=options.score_threshold, batch_size=options.batch_size)
        if options.pictures:
            _write_picture(target / "pictures", path.stem, image, found[path.stem], options.draw_threshold)


def _write_picture(folder: Path, stem: str, image: np.ndarray, detections: Detections, threshold: float) -> None:
    """The picture with its boxes drawn, as PNG, or as JPEG where it is large."""
    drawn = draw_detections(image, detections, threshold)
    height, width = drawn.shape[:2]
    suffix = ".jpg" if height * width > JPEG_ABOVE and max(height, width) <= JPEG_SIDE else ".png"
    done, data = cv2.imencode(suffix, drawn[..., ::-1])
    if not done:
        raise UserError(f"{folder / stem}{suffix}: the picture could not be encoded")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"{stem}{suffix}", data.tobytes())


def write_json(path: Path, found: dict[str, Detections], sources: dict[str, Path], class_names: tuple[str, ...]) -> None:
    """All detections in one JSON file, with the box convention they are in."""
    content = {
        "box_convention": CONVENTION,
        "class_names": list(class_names),
        "images": [
            {"name": stem, "file": str(sources[stem]), "detections": detections.to_records()} for stem, detections in found.items()
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())
