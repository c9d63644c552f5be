"""Detection on files: images and rasters in; DOTA text and zip, JSON, vectors with coordinates, and drawn images out."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from rotanext.boxes import CONVENTION
from rotanext.data.task1 import check_task1_target, write_task1, zip_task1
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError
from rotanext.images.drawing import draw_detections
from rotanext.images.raster import RasterOptions
from rotanext.images.reading import list_images
from rotanext.images.scenes import SCENE_SUFFIXES, open_scene, raster_settings
from rotanext.inference.detector import Detector
from rotanext.system.files import make_folder, write_bytes
from rotanext.system.progress import Display
from rotanext.system.readahead import read_ahead

JPEG_ABOVE = 4_000_000  # pixels; smaller images are written as PNG
DRAWN_SIDE = 4096  # larger scenes are drawn shrunk to this
_UNLOCATED = "a geotransform without CRS: coordinates in its own units, no GeoJSON, no metres, no headings"
_NO_PLACE = "its geotransform or GCPs give no place on the ground: no GeoJSON, GeoPackage, GeoParquet"


@dataclass(frozen=True)
class PredictOptions:
    """What `predict` computes and writes."""

    score_threshold: float | None = None  # of the files; None: the model's configuration
    draw_threshold: float = 0.3
    batch_size: int = 1
    images: bool = True
    across_classes: bool = False
    raster: RasterOptions = field(default_factory=RasterOptions)


def predict(
    detector: Detector,
    source: str | Path | Sequence[str | Path],
    target: Path,
    options: PredictOptions,
    problems: Problems,
    display: Display,
) -> dict[str, Detections]:
    """Detect on a file, a folder, a glob or several of these, and write all below `target`; returns detections by image name.

    Writes `Task1/Task1_<class>.txt` and `Task1.zip` for the DOTA server, `detections.json`, `images/`, and for rasters that
    know where they lie `vectors/`. What cannot be read is a problem (skipped, or refused when strict); the others go on.
    """
    sources = [source] if isinstance(source, str | Path) else source
    paths = list(dict.fromkeys(path for each in sources for path in list_images(each, SCENE_SUFFIXES)))
    check_task1_target(target / "Task1", detector.class_names)
    make_folder(target)
    found: dict[str, Detections] = {}
    named: dict[str, Path] = {}
    try:
        with raster_settings():
            _detect_each(detector, paths, target, options, problems, display, found, named)
    finally:  # Ctrl-C, a full disk or a refused image must not lose what was found before
        if found:
            write_task1(target / "Task1", found, detector.class_names)
            zip_task1(target / "Task1")
            write_json(target / "detections.json", found, named, detector.class_names)
    if not found:
        given = ", ".join(map(str, sources[:3]))
        raise UserError("\n".join([f"none of the images in {given} could be read", *problems.first]))
    return found


def _detect_each(
    detector: Detector,
    paths: list[Path],
    target: Path,
    options: PredictOptions,
    problems: Problems,
    display: Display,
    found: dict[str, Detections],
    named: dict[str, Path],
) -> None:
    """Detect on every file, adding to `found` and `named` as it goes."""
    said: set[str] = set()
    opened = read_ahead(paths, partial(open_scene, options=options.raster))
    for path, scene in display.track(opened, "detecting", len(paths)):
        if isinstance(scene, UserError):
            problems.note(str(scene))
            continue
        with closing(scene), display.counting(path.name) as tick:
            if path.stem in named:
                problems.add(
                    path,
                    f"the name '{path.stem}' a second time",
                    f"one image of a name ({named[path.stem]})",
                    "Rename one; DOTA files tell images apart by their names alone.",
                )
                continue
            try:
                if scene.how is not None and scene.how not in said:
                    said.add(scene.how)
                    display.say(f"{path.name}: {scene.how}")
                detections = detector.on_scene(
                    scene,
                    score_threshold=options.score_threshold,
                    batch_size=options.batch_size,
                    across_classes=options.across_classes,
                    tick=tick,
                )
                shown = scene.overview(DRAWN_SIDE) if options.images else None
                georeference = scene.georeference()
            except UserError as error:
                problems.note(str(error))
                continue
        named[path.stem], found[path.stem] = path, detections  # with the scene closed, whose blocks need not be held any longer
        if shown is not None:
            scale = shown.shape[1] / scene.width
            _write_image(target / "images", path.stem, shown, detections.scaled(scale), options.draw_threshold)
        if georeference is None and scene.claims_place:
            display.say(f"{path.name}: {_NO_PLACE}")
        if georeference is not None:
            from rotanext.geo.vectors import write_vectors

            left_out = write_vectors(target / "vectors", path.stem, detections, georeference).left_out
            if "GeoPackage" in left_out:
                problems.note(f"{path}: its coordinate system cannot be written to GeoPackage; the other files are there")
            if "GeoJSON" in left_out and _UNLOCATED not in said:
                said.add(_UNLOCATED)
                display.say(f"{path.name}: {_UNLOCATED}")


def _write_image(folder: Path, stem: str, image: np.ndarray, detections: Detections, threshold: float) -> None:
    """The image with its boxes drawn, as PNG, or as JPEG where it is large."""
    drawn = draw_detections(image, detections, threshold)
    suffix = ".jpg" if drawn.shape[0] * drawn.shape[1] > JPEG_ABOVE else ".png"
    done, data = cv2.imencode(suffix, drawn[..., ::-1])
    if not done:
        raise UserError(f"{folder / stem}{suffix}: the image could not be encoded")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"{stem}{suffix}", data.tobytes())


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
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
