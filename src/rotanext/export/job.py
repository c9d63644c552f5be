"""`rotanext export`: trace, write, read back, compare, and put in place only what passed."""

import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from rotanext.data.index import read_entries
from rotanext.errors import Problems, UserError, counted, explain
from rotanext.evaluation.evaluate import detect_all, score
from rotanext.export.graph import DecodedNetwork, trace
from rotanext.export.metadata import PRECISIONS, SUFFIXES, Metadata
from rotanext.export.onnx_file import need, quantise, seal, write_onnx
from rotanext.export.openvino_file import weights_of, write_openvino
from rotanext.export.parity import Parity, compare
from rotanext.export.runtime import RuntimeNetwork, open_exported
from rotanext.export.torch_file import open_program, write_program
from rotanext.images.reading import IMAGE_SUFFIXES, list_images
from rotanext.images.scenes import open_scene, raster_settings
from rotanext.inference.detector import Detector
from rotanext.synthetic.scenes import draw_scene
from rotanext.system.files import make_folder
from rotanext.system.progress import Display

CHECKED, CALIBRATED = 8, 64  # tiles
DRAWN = 2  # tiles, where there are no images
_ENGINES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "torch": "torch.export"}
_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}


@dataclass(frozen=True)
class ExportOptions:
    """What `export` writes, and on which images it is calibrated, compared and evaluated."""

    format: str
    out: Path
    precision: str = "fp32"
    calibrate: Path | None = None  # images
    check: Path | None = None  # images; None: those of the other folders, of the training, or drawn ones
    evaluate: Path | None = None  # a DOTA folder


def export(detector: Detector, options: ExportOptions, display: Display) -> tuple[Parity, Path]:
    """Export a detector; returns the comparison with PyTorch, and the file's name, which ends in `.failed` where it did not pass.

    An earlier file of the asked name stays until another has passed. The report lies beside the file (`.parity.json`). Raises
    UserError for wrong options, missing packages, or images that cannot be read.
    """
    check_options(options)
    tiles, images = _compared(detector, options)
    calibration = _tiles(detector, options.calibrate, CALIBRATED) if options.calibrate else []
    make_folder(options.out.parent)
    metadata = Metadata(detector.class_names, detector.config, options.precision)
    with tempfile.TemporaryDirectory(prefix=f".{options.out.name}.", dir=options.out.parent) as folder:
        made = Path(folder) / options.out.name
        _write(detector, made, metadata, options, calibration, display)
        display.say(f"comparing with PyTorch on {counted(len(tiles), 'tile')} of {images}")
        exported = _read_back(made, options.format, metadata)
        parity = compare(detector, exported, tiles, options.precision, _ENGINES[options.format])
        parity.images = images
        if options.evaluate is not None:
            display.say(f"evaluating both on {options.evaluate}")
            pair = {"PyTorch fp32": detector, f"{parity.engine} {options.precision}": exported}
            parity.accuracy = {name: _accuracy(one, options.evaluate) for name, one in pair.items()}
        target = options.out if not parity.faults else options.out.with_name(f"{options.out.name}.failed")
        _place(made, target)
    parity.write(target.with_name(f"{target.name}.parity.json"))
    return parity, target


def check_options(options: ExportOptions) -> None:
    """Raise UserError for options that do not go together, before any work."""
    formats = {name: suffix for suffix, name in SUFFIXES.items()}
    if options.format not in formats:
        raise UserError(f"--format is '{options.format}'; expected {', '.join(formats)}")
    if options.precision not in PRECISIONS:
        raise UserError(f"--precision is '{options.precision}'; expected {', '.join(PRECISIONS)}")
    suffix = formats[options.format]
    if options.out.suffix.lower() != suffix:
        advice = f"Name it {options.out.with_suffix(suffix).name}."
        raise UserError(explain(options.out, f"a name for {options.format}", f"one that ends in {suffix}", advice))
    if options.precision == "int8" and options.format == "torch":
        raise UserError("--precision int8 is for onnx and openvino; for torch use fp32 or fp16")
    if options.precision == "int8" and options.calibrate is None:
        raise UserError("--precision int8 needs --calibrate: a folder of images like those it will see (a hundred will do)")
    if options.precision != "int8" and options.calibrate is not None:
        raise UserError(f"--calibrate belongs to --precision int8; this is {options.precision}")
    for folder in (options.check, options.calibrate, options.evaluate):
        if folder is not None and not folder.exists():
            raise UserError(explain(folder, "nothing there", "a folder of images", "Check the path."))
    need("export" if options.format == "onnx" else "export,openvino", *_NEEDED[options.format])
    if options.precision == "int8":
        need("export", "onnxruntime")


def _write(
    detector: Detector,
    path: Path,
    metadata: Metadata,
    options: ExportOptions,
    calibration: Sequence[np.ndarray],
    display: Display,
) -> None:
    """Write the file in its format and precision, with metadata."""
    # OpenVINO stores fp32 in half precision by itself, and quantisation starts from fp32
    traced = "fp16" if options.precision == "fp16" and options.format != "openvino" else "fp32"
    display.say("tracing the network: a minute or so")
    # of a .pt2 the trained weights are read again, norms and all
    program = traced_program(detector, traced, fold=options.format != "torch")
    if options.format == "torch":
        write_program(program, path, metadata)
        return
    display.say("writing the graph as ONNX")
    graph = path.with_name("graph.onnx")
    write_onnx(program, graph)
    if options.precision == "int8":
        display.say(f"quantising with {counted(len(calibration), 'tile')}")
        quantise(graph, path.with_name("int8.onnx"), list(calibration))
        graph = path.with_name("int8.onnx")
    if options.format == "openvino":
        write_openvino(graph, path, metadata)
    else:
        graph.replace(path)
        seal(path, metadata)


def traced_program(detector: Detector, precision: str, fold: bool = True) -> ExportedProgram:
    """The graph of a detector, computing in fp32 or fp16, on the CPU; its batch norms folded, if wanted."""
    return trace(DecodedNetwork(detector.model, precision, fold).cpu())


def _read_back(path: Path, kind: str, metadata: Metadata) -> Detector:
    """The written file as a detector; a .pt2's program itself, which we wrote a moment ago."""
    if kind != "torch":
        return open_exported(path, device="cpu")[0]
    open_program(path, torch.device("cpu"), None, precision="fp32", compiled=False)  # that it can be read as predict will read it
    program = torch.export.load(path).module(check_guards=False)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            logits, boxes = program(torch.from_numpy(images))
        return logits.numpy(), boxes.numpy()

    return Detector(RuntimeNetwork(path, run, metadata, torch.device("cpu")), metadata.config, metadata.class_names)


def _place(made: Path, target: Path) -> None:
    """Move a file, and the weights that belong to it, to where they shall be."""
    try:
        if weights_of(made).exists() and made.suffix.lower() == ".xml":
            weights = weights_of(target) if target.suffix.lower() == ".xml" else target.with_name(f"{made.stem}.bin.failed")
            weights_of(made).replace(weights)
        made.replace(target)
    except OSError as error:
        raise UserError(explain(target, f"that it cannot be written ({error})", "a free name", "Choose another.")) from None


def written(target: Path) -> list[Path]:
    """The file of a passed export, and the weights that belong to it."""
    return [target, weights_of(target)] if target.suffix.lower() == ".xml" else [target]


def _tile_side(detector: Detector) -> int:
    return detector.config.predict.image_size or detector.config.predict.tile


def evenly(count: int, most: int) -> list[int]:
    """At most so many indices below `count`, from the first to the last."""
    return list(range(count)) if count <= most else np.linspace(0, count - 1, most).round().astype(int).tolist()


def _tiles(detector: Detector, source: Path, most: int) -> list[np.ndarray]:
    """Tiles of a folder's images as the detector cuts them: at most so many, taken evenly; unreadable images are refused."""
    folder = source / "images" if (source / "images").is_dir() else source
    paths = list_images(folder, IMAGE_SUFFIXES)
    paths = [paths[at] for at in evenly(len(paths), most)]
    tiles: list[np.ndarray] = []
    share = -(-most // len(paths))
    for path in paths:
        with raster_settings(), closing(open_scene(path)) as whole:
            scene, _, tiling = detector.cut(whole)
            windows = tiling.windows(scene.width, scene.height)
            tiles += [scene.read(*windows[at])[0] for at in evenly(len(windows), share)]
    return [np.ascontiguousarray(tile) for tile in tiles[:most]]


def _compared(detector: Detector, options: ExportOptions) -> tuple[list[np.ndarray], str]:
    """Tiles to compare on, and what of: the given images, or those it was trained with where they lie here, or drawn ones."""
    if given := options.check or options.evaluate or options.calibrate:
        return _tiles(detector, given, CHECKED), str(given)
    for folder in (*detector.config.data.val, *detector.config.data.train):
        with suppress(UserError, OSError):  # nobody asked for these
            if (Path(folder) / "images").is_dir():
                return _tiles(detector, Path(folder), CHECKED), folder
    return _drawn(detector), "drawn scenes (--check takes images)"


def _drawn(detector: Detector) -> list[np.ndarray]:
    """Tiles of the synthetic scenes."""
    side = _tile_side(detector)
    return [draw_scene((5, index), side, side, background=False)[0] for index in range(DRAWN)]


def _accuracy(detector: Detector, data: Path) -> dict[str, float | None]:
    """mAP of whole images, as `rotanext eval` has it."""
    problems = Problems(strict=True)
    entries = read_entries([data], detector.class_names, problems)
    read, detections = detect_all(detector, entries, problems)
    return score(detections, read, detector.class_names).summary()
