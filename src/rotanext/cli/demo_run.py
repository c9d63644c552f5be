"""What `rotanext demo` does: the whole way from images to a scored detector, on synthetic aerial scenes.

Scenes are drawn, cut into tiles, and the tiles that hold most are trained on; other scenes are scored whole, and one large
one is shown.
"""

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from rotanext.config import load_config
from rotanext.data.index import read_entries
from rotanext.data.select import thin_out
from rotanext.data.split import split_dataset
from rotanext.errors import Problems
from rotanext.evaluation.evaluate import evaluate_weights
from rotanext.images.drawing import contact_sheet, draw_detections, draw_objects
from rotanext.images.reading import write_png
from rotanext.images.scenes import read_pixels
from rotanext.inference.predict import PredictOptions, predict
from rotanext.load import load_detector
from rotanext.synthetic.scenes import draw_scene, make_dataset
from rotanext.system.progress import Display
from rotanext.training.folder import LAST, LOG, read_run_config, state_files
from rotanext.training.train import start_training

TRAINING_SCENES = 60
VALIDATION_SCENES = 8
SCENE_SIDE = 1024
TILE, OVERLAP = 192, 64
TRAINING_TILES = 1040
BACKGROUND = 0.03  # of the tiles
SCALE = 1.1
SHOWN_SIZE = 1200, 1600
SEEDS = {"train": 1, "val": 2, "shown": 3}
EXAMPLES = 4
DRAWN_FROM = 0.5  # score
CLASSES = ("plane", "ship", "small-vehicle", "storage-tank", "swimming-pool", "tennis-court")


def run_demo(folder: Path, device: str, console: Console) -> None:
    """Draw a data set, train on it, evaluate on other scenes, detect on a large one; everything lands in `folder`.

    A demo that was interrupted goes on where it was; a finished one does its last part again.
    """
    start = time.monotonic()
    data = folder / "data"
    _once(data / "val", partial(_draw, count=VALIDATION_SCENES, seed=SEEDS["val"], console=console))
    _once(data / "scenes", partial(_draw, count=TRAINING_SCENES, seed=SEEDS["train"], console=console))
    _once(data / "train", partial(_cut, scenes=data / "scenes", progress=not console.quiet))
    drawn = time.monotonic()

    begun = bool(state_files(folder))
    config = (
        read_run_config(folder)
        if begun
        else load_config("demo", chosen={f"data.{key}": [str(data / key)] for key in ("train", "val")})
    )
    scores = start_training(config, folder, device, Problems(strict=True), console, resume=begun)
    trained = time.monotonic()

    detector = load_detector(folder / LAST, device)
    images = folder / "images"
    images.mkdir(exist_ok=True)
    scene, objects = draw_scene((SEEDS["shown"], 4), *SHOWN_SIZE, coast=True, scale=SCALE, classes=CLASSES)
    write_png(images / "scene.png", scene)
    predict(
        detector, images / "scene.png", folder / "scene", PredictOptions(draw_threshold=DRAWN_FROM), Problems(), Display(console)
    )
    write_png(images / "scene_labels.png", draw_objects(scene, objects, detector.class_names))
    write_png(images / "scene_detections.png", read_pixels(folder / "scene/images/scene.png"))
    entries = read_entries([data / "val"], detector.class_names, Problems())[:EXAMPLES]
    shown = [read_pixels(entry.path) for entry in entries]
    sheet = contact_sheet([draw_detections(image, detector(image), DRAWN_FROM) for image in shown], 2)
    write_png(images / "validation_detections.png", sheet)

    if scores is None:  # it had been trained before
        scores = evaluate_weights(detector, data / "val", folder / "evaluation", 1, Problems(strict=True), console).scores
    figures = scores.summary()
    console.print(
        f"\nmAP50 {figures['map50']:.3f}, mAP75 {figures['map75']:.3f}, mAP50:95 {figures['map50_95']:.3f} on "
        f"{VALIDATION_SCENES} scenes it was not trained on.\n"
        f"{time.monotonic() - start:.0f} s in all: {drawn - start:.0f} s to draw the data, {trained - drawn:.0f} s to train and "
        f"evaluate, {time.monotonic() - trained:.0f} s for the large scene and the images.\n\n"
        f"report        {folder / 'report.html'} (open it in a browser)\n"
        f"images        {images}\ncurves        {folder / 'curves.png'}, {folder / 'evaluation'}\n"
        f"figures       {folder / 'evaluation' / 'metrics.json'}, {folder / LOG}\n"
        f"checkpoint    {folder / LAST}\n\n"
        f"next: rotanext predict YOUR_IMAGE --weights {folder / LAST}",
        highlight=False,
        soft_wrap=True,
    )


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder, unless it is there; half a one never is, as it is made elsewhere and moved."""
    if folder.is_dir():
        return
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    make(part)
    part.rename(folder)


def _draw(folder: Path, count: int, seed: int, console: Console) -> None:
    workers = os.cpu_count() or 1
    make_dataset(folder, count, SCENE_SIDE, seed, workers=workers, scale=SCALE, classes=CLASSES, console=console)


def _cut(folder: Path, scenes: Path, progress: bool) -> None:
    """Cut scenes into tiles and keep the fullest."""
    split_dataset(scenes, folder, size=TILE, overlap=OVERLAP, progress=progress)
    thin_out(folder, TRAINING_TILES, CLASSES, BACKGROUND)
