"""`rotanext demo`: the whole way from pictures to a scored detector, on synthetic aerial scenes."""

import os
import time
from pathlib import Path

from rich.console import Console

from rotanext.config import load_config
from rotanext.data.dataset import read_entries
from rotanext.data.images import read_image, write_png
from rotanext.data.synthetic import draw_scene, make_dataset
from rotanext.errors import Problems, UserError
from rotanext.load import load_detector
from rotanext.predict import PredictOptions, predict
from rotanext.progress import Reporter
from rotanext.train import start_training
from rotanext.visualize import contact_sheet, draw_detections, draw_objects

TRAINING_SCENES = 700
VALIDATION_SCENES = 60
TILE = 256
SCENE_SIZE = 1200, 1600
SEEDS = {"train": 1, "val": 2, "scene": 3}
EXAMPLES = 6


def run_demo(folder: Path, device: str, console: Console) -> None:
    """Draw a data set, train on it, evaluate on other scenes, detect on a large one; everything lands in `folder`."""
    if (folder / "state.pt").exists():
        raise UserError(f"{folder} already holds a demo; remove it or choose another --run folder")
    start = time.monotonic()
    data = folder / "data"
    workers = os.cpu_count() or 1
    for name, count in (("train", TRAINING_SCENES), ("val", VALIDATION_SCENES)):
        if not (data / name / "images").is_dir():
            make_dataset(data / name, count, TILE, SEEDS[name], workers=workers)
    drawn = time.monotonic()

    config = load_config("demo", [f"data.train={data / 'train'}", f"data.val={data / 'val'}"])
    report = start_training(config, folder, device, Problems(), console)
    if report is None:
        return  # interrupted; the training has said how to go on
    trained = time.monotonic()

    detector = load_detector(folder / "last.safetensors", device)
    pictures = folder / "pictures"
    scene, objects = draw_scene((SEEDS["scene"], 0), *SCENE_SIZE, coast=True)
    write_png(pictures / "scene.png", scene)
    predict(detector, pictures / "scene.png", folder / "scene", PredictOptions(), Problems(), Reporter(console))
    write_png(pictures / "scene_labels.png", draw_objects(scene, objects, detector.class_names))
    write_png(pictures / "scene_detections.png", read_image(folder / "scene/pictures/scene.png"))
    entries = read_entries([str(data / "val")], detector.class_names, Problems())[:EXAMPLES]
    images = [read_image(entry.path) for entry in entries]
    sheet = contact_sheet([draw_detections(image, detector(image)) for image in images], 3)
    write_png(pictures / "validation_detections.png", sheet)

    figures = report.summary()
    console.print(
        f"\nmAP50 {figures['map50']:.3f}, mAP75 {figures['map75']:.3f}, mAP50:95 {figures['map50_95']:.3f} on "
        f"{VALIDATION_SCENES} scenes it was not trained on.\n"
        f"{time.monotonic() - start:.0f} s in all: {drawn - start:.0f} s to draw the data, {trained - drawn:.0f} s to train and "
        f"evaluate, {time.monotonic() - trained:.0f} s for the large scene and the pictures.\n\n"
        f"pictures      {pictures}\ncurves        {folder / 'curves.png'}, {folder / 'evaluation'}\n"
        f"figures       {folder / 'evaluation' / 'metrics.json'}, {folder / 'metrics.jsonl'}\n"
        f"checkpoint    {folder / 'last.safetensors'}\n\n"
        f"next: rotanext predict YOUR_PICTURE --weights {folder / 'last.safetensors'}",
        highlight=False,
        soft_wrap=True,
    )
