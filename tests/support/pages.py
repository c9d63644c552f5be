"""The fenced blocks of the documentation, who runs each of their commands, and the folder they run in."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

import oriented_det_files
import rtmdet_files
from mmrotate_files import reference_weights
from places import ROOT
from rotanext.data.dota import CLASS_LISTS
from rotanext.images.reading import write_png
from rotanext.labels.convert import convert_labels
from tiny import TINY, draw_dataset

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"])
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n)?^```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    body: str
    reason: str | None  # why it is not run

    @property
    def commands(self) -> list[str]:
        """Its commands, continued lines joined, comments left out."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


class Command(NamedTuple):
    """A command of a page, and which test runs it."""

    page: str
    line: int
    text: str
    runner: str  # "page", "pip", "data", "ray", "launcher", "serve", "" for nobody, or "reason" where the page says why

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line} {self.text[:50]}"


def words_of(command: str) -> list[str]:
    """A command's words, without variables set before it and what comes after a pipe or a redirection."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    assert not {"&&", ";", "&"} & set(words), f"one command a line, so that each is run: {command}"
    ends = [i for i, word in enumerate(words) if word in ("|", ">")]
    return words[: ends[0]] if ends else words


def _runner(block: Block, words: list[str]) -> str:
    program = words[0]
    if block.reason:
        return "reason"
    if program == "rotanext" and "--ray" in words:
        return "ray"
    if program == "rotanext" and "DATA/" in block.body:
        return "data"
    if program == "curl" or words[:2] == ["rotanext", "serve"]:
        return "serve"
    return {"rotanext": "page", "pip": "pip", "torchrun": "launcher", "accelerate": "launcher"}.get(program, "")


def _blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(str(page.relative_to(ROOT)), line, match["kind"], match["body"], match["reason"]))
    return found


BLOCKS = _blocks()
COMMANDS = [
    Command(block.page, block.line, text, _runner(block, words_of(text)))
    for block in BLOCKS
    if block.kind in ("", "bash", "sh")
    for text in block.commands
]


def commands_for(runner: str) -> list[Command]:
    return [command for command in COMMANDS if command.runner == runner]


def made_small(words: list[str]) -> list[str]:
    """A training that lasts a second, on the CPU; other commands as they are."""
    if words[0] != "train" or "--resume" in words:
        return words
    settings = [word for word in TINY if not re.search(r"stacked_convs|image_size", word)]
    return [*words, *settings, "data.image_size=64", "predict.image_size=64", "--device", "cpu"]


def write_checkpoints(folder: Path, commands: list[str]) -> None:
    """The files of other toolboxes that commands name: RetinaNet of MMRotate 0.x, its RTMDet of 1.x, oriented-det's."""
    named = " ".join(commands)
    if "epoch_12.pth" in named:
        meta = {"mmrotate_version": "0.1.0", "mmdet_version": "2.19.0", "CLASSES": CLASS_LISTS["dota1.0"]}
        torch.save({"meta": meta, "state_dict": reference_weights("convnext_atto", 15)}, folder / "epoch_12.pth")
    if "epoch_36.pth" in named:
        rtmdet_files.write(folder / "epoch_36.pth", rtmdet_files.weights("tiny"))
    if "theirs/checkpoints" in named:
        oriented_det_files.write(folder / "theirs", oriented_det_files.rtmdet(), {})


def fill_sandbox(folder: Path, weights: Path) -> None:
    """Everything that the pages' commands name: two data sets, images, a raster, what `rotanext demo` leaves."""
    draw_dataset(folder / "mydata/train", 4)
    draw_dataset(folder / "mydata/val", 2, seed=1)
    for path in [*(folder / "mydata/val").rglob("p*.*")]:
        path.rename(path.with_name(path.name.replace("p", "v", 1)))
    convert_labels(folder / "mydata", folder / "yolodata", "dota", "yolo-obb", placing="copy")
    image = cv2.imread(str(folder / "mydata/val/images/v0.png"))[..., ::-1]
    for name in ("images/a.jpg", "scene.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), np.ascontiguousarray(image[..., ::-1]))
    for name in ("scene.png", "scenes/scene.png", "runs/demo/images/scene.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(folder / name, image)
    import rasterio

    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5)}
    with rasterio.open(folder / "scene.tif", "w", driver="GTiff", width=64, height=64, count=4, dtype="uint16", **place) as raster:
        raster.write(np.concatenate([image, image[..., :1]], 2).transpose(2, 0, 1).astype(np.uint16) * 100)
    draw_dataset(folder / "runs/demo/data/scenes", 3, seed=2)
    draw_dataset(folder / "runs/demo/data/val", 2, seed=3)
    for name in ("best.safetensors", "runs/demo/last.safetensors"):
        (folder / name).write_bytes(weights.read_bytes())
