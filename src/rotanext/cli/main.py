"""The command line: every command parses its options and calls one function."""

import json
import os
import sys
import traceback
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rotanext.cli.labels import labels_app
from rotanext.cli.terminal import (
    AnchorsOption,
    ClassesOption,
    CompileOption,
    DeviceOption,
    ImageSizeOption,
    JsonOption,
    OverlapOption,
    PrecisionOption,
    QuietOption,
    StrictOption,
    TileOption,
    WeightsOption,
    alert,
    console,
    finish,
    output,
    print_json,
    print_result,
)
from rotanext.errors import EXIT_CODES, Problems, UserError, counted

app = typer.Typer(
    name="rotanext",
    help="Oriented object detection with ConvNeXt backbones: train, evaluate, predict.",
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich" if sys.stderr.isatty() else None,  # no frames around lines that go to a file
)
app.add_typer(labels_app)


def _load(
    weights: Path, device: str, anchors: str | None, classes: str | None, precision: str = "fp32", compiled: bool = False
) -> Any:
    from rotanext.load import read_detector

    if anchors not in (None, "v0", "v1"):
        raise UserError(f"--anchors is '{anchors}'; expected v0 or v1")
    detector, file = read_detector(
        weights,
        device=device,
        anchors=anchors,  # type: ignore[arg-type]
        classes=classes,
        precision=precision,
        compiled=compiled,
    )
    for note in file.notes:
        console.print(f"{weights.name}: {note}", style="dim")
    return detector


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="Where images, curves, figures and the checkpoint go.")] = Path("runs/demo"),
    device: DeviceOption = "cpu",
    quiet: QuietOption = False,
) -> None:
    """Draw a synthetic aerial data set, train on it, evaluate, detect on a large scene: a few minutes on two CPU cores."""
    from rotanext.cli.demo import run_demo

    run_demo(run, device, console)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name, or a .toml or .json file.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example train.epochs=3.")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="DOTA folder to train on (repeatable).")] = None,
    val: Annotated[list[str] | None, typer.Option("--val", help="DOTA folder to validate on (repeatable).")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run; runs/RECIPE by default.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.")] = None,
    go_on: Annotated[
        bool,
        typer.Option("--go-on", help="Go on with the training in --run where there is one already: for jobs that are restarted."),
    ] = False,
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, wandb or mlflow: where the figures go (repeatable).")
    ] = None,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a detector, in one process or (torchrun, accelerate launch) in several."""
    from rotanext.config import load_config, recipe_names
    from rotanext.training.train import holds_training, read_run_config, reconfigured, start_training

    tracking = [f"train.trackers={json.dumps(tracker)}"] if tracker else []
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    alert.quiet = int(os.environ.get("LOCAL_RANK", "0")) > 0 and not alone  # one message a machine
    console.quiet = quiet or alert.quiet
    if resume is not None:
        if data or val or run or go_on or (recipe and "=" not in recipe):
            raise UserError("--resume takes everything from the run's folder; give no recipe, --data, --val, --run or --go-on")
        changes = [recipe, *(overrides or [])] if recipe else []
        config, folder = reconfigured(read_run_config(resume), [*changes, *tracking]), resume
    else:
        if recipe is None:
            raise UserError(f"a recipe is needed: {', '.join(recipe_names())}, or a file")
        config = load_config(recipe, [*(overrides or []), *_paths("train", data), *_paths("val", val), *tracking])
        folder = run or Path("runs") / config.name
        if go_on and holds_training(folder):
            config, resume = reconfigured(read_run_config(folder), wanted=config), folder
    problems = Problems(strict)
    start_training(config, folder, device, problems, console, resume=resume is not None)
    if quiet and problems.count:
        alert.print(problems.summary(), style="yellow")
    if problems.count and alone:  # they were named at the start; launchers take every code but 0 for a failure
        raise typer.Exit(1)


def _paths(key: str, folders: list[str] | None) -> list[str]:
    """An override that sets a list of data folders, absolute: --resume may be called from anywhere."""
    return [f"data.{key}={json.dumps([str(Path(folder).resolve()) for folder in folders])}"] if folders else []


@app.command(name="eval")
def evaluate(
    data: Annotated[Path, typer.Argument(help="A DOTA folder (images/ and labelTxt/); with --detections labels alone will do.")],
    weights: Annotated[Path | None, typer.Option("--weights", "-w", help="The detector to evaluate.")] = None,
    detections: Annotated[Path | None, typer.Option("--detections", help="A folder of Task1_*.txt instead of a detector.")] = None,
    merge: Annotated[
        float | None,
        typer.Option("--merge", min=0, max=1, help="The detections are of tiles: merge them by NMS at this IoU first."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where curves, confusion matrix and figures go.")] = Path("runs/eval"),
    batch: Annotated[int, typer.Option("--batch", min=1, help="Tiles computed at once.")] = 1,
    image_size: ImageSizeOption = None,
    tile: TileOption = None,
    overlap: OverlapOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    compiled: CompileOption = False,
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a detector, or files of detections, by the DOTA protocol with true polygon IoU."""
    from rotanext.evaluation.evaluate import evaluate_files, evaluate_weights
    from rotanext.reports.run import write_evaluation

    if (weights is None) == (detections is None):
        raise UserError("give either --weights (a detector) or --detections (a folder of Task1_*.txt)")
    problems = Problems(strict)
    about: dict[str, object] = {"Weights" if detections is None else "Detections": detections or weights, "Data": data}
    detector = None
    if detections is not None:
        done = evaluate_files(detections, data, out, merge, problems)
    else:
        assert weights is not None
        if merge is not None:
            raise UserError("--merge belongs to --detections; a detector merges its tiles itself")
        detector = _load(weights, device, anchors, classes, precision, compiled)
        detector = detector.reconfigured(image_size=image_size, tile=tile, overlap=overlap)
        done = evaluate_weights(detector, data, out, batch, problems, console)
    write_evaluation(done, out, about, detector and detector.config, detector and detector.device)
    if as_json:
        print_json(done.scores.to_json() | {"out": str(out)}, problems)
    else:
        output.print(done.scores.table())
    console.print(f"report.html (open it in a browser), curves, confusion matrix and figures are in {out}")
    finish(problems)


@app.command()
def predict(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, rasters, folders of them, quoted globs; with --ray one of these, a .txt list, or s3://... .",
        ),
    ],
    weights: WeightsOption,
    out: Annotated[str, typer.Option("--out", help="Where the results go.")] = "runs/predict",
    score: Annotated[
        float | None, typer.Option("--score", min=0, max=1, help="Lowest score written; the model's own by default.")
    ] = None,
    draw: Annotated[float, typer.Option("--draw", min=0, max=1, help="Lowest score drawn.")] = 0.3,
    images: Annotated[bool, typer.Option(help="Draw the boxes.")] = True,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Tiles computed at once.")] = 1,
    image_size: ImageSizeOption = None,
    tile: TileOption = None,
    overlap: OverlapOption = None,
    across_classes: Annotated[
        bool, typer.Option("--across-classes", help="Overlapping boxes of different classes compete, too.")
    ] = False,
    bands: Annotated[
        str | None, typer.Option("--bands", help="Of rasters: the bands for red, green and blue, as in 4,3,2; or one.")
    ] = None,
    stretch: Annotated[
        str, typer.Option("--stretch", help="Of rasters: auto, full, LOW:HIGH (values) or LOW%:HIGH% (percentiles) to 0 to 255.")
    ] = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    compiled: CompileOption = False,
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    strict: StrictOption = False,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="An archive through Ray: local, auto or HOST:PORT. Writes Parquet, no images."),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="With --ray: one per GPU, or per cores.")] = None,
    cores: Annotated[int | None, typer.Option("--cores-per-worker", min=1, help="With --ray, without GPUs: up to 4.")] = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="With --ray: tiles a worker computes at a time, 32.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Detect objects in images and rasters of any size; write DOTA text and zip, JSON, GeoJSON and drawn images."""
    from rotanext.images.raster import raster_options
    from rotanext.inference.predict import PredictOptions
    from rotanext.inference.predict import predict as run
    from rotanext.system.progress import Display

    problems = Problems(strict)
    if ray is None and (workers or cores or chunk):
        raise UserError("--workers, --cores-per-worker and --chunk belong to --ray")
    for source in sources:
        if ray is None and ("://" in source or source.endswith(".txt")):
            raise UserError(f"{source}: addresses and lists of them are read with --ray local (or a cluster's address)")
    if ray is not None and len(sources) > 1:
        raise UserError(f"--ray takes one source, and not {len(sources)}: put a glob in quotation marks, or write a .txt list")
    detector = _load(weights, device if ray is None else "cpu", anchors, classes, precision, compiled)
    detector = detector.reconfigured(image_size=image_size, tile=tile, overlap=overlap)
    options = PredictOptions(score, draw, batch, images, across_classes, raster_options(bands, stretch))
    if ray is not None:
        from rotanext.archive.cluster import ClusterOptions, predict_archive

        cluster = ClusterOptions(ray, workers, cores, chunk or ClusterOptions.chunk, device)
        summary = predict_archive(detector, sources[0], out, options, cluster, problems, Display(console))
        console.print(summary.text(out))
        if as_json:
            print_json(asdict(summary) | {"out": out}, problems)
        return finish(problems)
    found = run(detector, sources, Path(out), options, problems, Display(console))
    total, sure = sum(map(len, found.values())), sum(int((d.scores >= draw).sum()) for d in found.values())
    held = f"{counted(total, 'object')} in {counted(len(found), 'image')}"
    console.print(f"{held}, {sure:,} with a score of at least {draw}; results are in {out}")
    if as_json:
        names = Counter(name for d in found.values() for name in d.above(draw).names)
        print_json({"images": len(found), "objects": sure, "score": draw, "classes": dict(names), "out": out}, problems)
    finish(problems)


@app.command()
def serve(
    weights: WeightsOption,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; others than this machine need 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    token: Annotated[
        str | None, typer.Option("--token", envvar="ROTANEXT_TOKEN", help="Answer only who sends it (Authorization: Bearer ...).")
    ] = None,
    max_upload: Annotated[float, typer.Option("--max-upload", min=0.001, help="Largest upload, in MB.")] = 100,
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Largest image, in pixels.")] = 64_000_000,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds an upload and its answer may take.")] = 60,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests served at once; more are answered 429.")] = 8,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Tiles computed at once, of all requests; 1 on a CPU, 8 on a GPU.")
    ] = None,
    image_size: ImageSizeOption = None,
    tile: TileOption = None,
    overlap: OverlapOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Serve a detector over HTTP: a page to drop images on, POST /predict, /health, /metrics (extra `serve`)."""
    try:
        from rotanext.serve.limits import Limits
        from rotanext.serve.server import ServeOptions
        from rotanext.serve.server import serve as run
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs the package {error.name}; install it with: pip install 'rotanext[serve]'") from None

    detector = _load(weights, device, anchors, classes, precision).reconfigured(image_size=image_size, tile=tile, overlap=overlap)
    limits = Limits(round(max_upload * 1e6), max_pixels, timeout, concurrency)
    run(detector, ServeOptions(host, port, token, batch, limits), console)


@app.command()
def split(
    source: Annotated[Path, typer.Argument(help="A DOTA folder.")],
    target: Annotated[Path, typer.Argument(help="The folder for the tiles, another DOTA folder.")],
    size: Annotated[int, typer.Option(help="Side of the square tiles.")] = 1024,
    overlap: Annotated[int, typer.Option(help="Overlap of neighbouring tiles.")] = 200,
    rates: Annotated[str, typer.Option(help="Scales, as in 0.5,1.0,1.5.")] = "1.0",
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one per core by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cut a data set into tiles, images and labels."""
    from rotanext.data.split import split_dataset

    try:
        scales = tuple(float(rate) for rate in rates.split(","))
    except ValueError:
        raise UserError(f"--rates is '{rates}'; expected numbers with commas between, as in 0.5,1.0,1.5") from None
    problems = Problems(strict)
    report = split_dataset(
        source, target, size, overlap, scales, workers=workers, problems=problems, overwrite=overwrite, progress=not quiet
    )
    labels = "" if report.labelled else " (no labels: images only)"
    console.print(
        f"{counted(report.tiles, 'tile')} of {counted(report.images, 'image')}, {report.empty_tiles:,} without objects, "
        f"{counted(report.objects, 'object')}, in {report.seconds:.1f} s: {target}{labels}"
    )
    if as_json:
        print_json(asdict(report) | {"out": str(target)}, problems)
    finish(problems)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of any known layout.")],
    target: Annotated[Path, typer.Argument(help="The file to write, ending in .safetensors.")],
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn a checkpoint of MMRotate, mmpretrain, the ConvNeXt authors, timm or torchvision into ours."""
    from rotanext.convert import convert_checkpoint

    for line in convert_checkpoint(source, target, anchors, classes):
        console.print(line)


@app.command()
def export(
    weights: WeightsOption,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .onnx, .xml (OpenVINO, with a .bin) or .pt2 (torch).")],
    form: Annotated[str, typer.Option("--format", help="onnx, openvino or torch.")] = "onnx",
    precision: Annotated[str, typer.Option("--precision", help="fp32, fp16 or int8.")] = "fp32",
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="For int8: a folder of images like those it will see.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Images to compare it with PyTorch on; by default those it was trained with, or drawn ones."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--eval", help="A DOTA folder: score both, PyTorch's and the exported.")] = None,
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write a detector for ONNX Runtime, OpenVINO or torch.export, compared with PyTorch; exit code 1 where they differ."""
    from rotanext.export.job import ExportOptions, check_options, written
    from rotanext.export.job import export as run
    from rotanext.system.progress import Display

    options = ExportOptions(form, out, precision, calibrate, check, data)
    check_options(options)
    detector = _load(weights, "cpu", anchors, classes)
    parity, target = run(detector, options, Display(console))
    print_result(parity.text())
    if parity.faults:
        alert.print(f"the exported detector differs from PyTorch's beyond tolerance; it was kept as {target}", style="red")
        raise typer.Exit(1)
    console.print(f"{target} ({sum(f.stat().st_size for f in written(target)) / 1e6:.1f} MB); the report is {target}.parity.json")


@app.command()
def info(as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Print versions, devices and active kernels; with --json all that a bug report needs, without names and paths."""
    from rotanext.system.info import bug_report, environment

    if as_json:
        return print_json(bug_report())
    for key, value in environment().items():
        print_result(f"{key:>14}  {value}")


def main() -> None:
    """Run the command line; a user's mistake ends with one message and exit code 2, never a traceback. See `EXIT_CODES`."""
    console.quiet = alert.quiet = False
    try:
        app(prog_name="rotanext")  # completion goes by this name, however it was started
    except UserError as error:
        alert.print(f"error: {error}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        alert.print("interrupted", style="yellow")
        sys.exit(130)
    except (OSError, MemoryError) as error:
        alert.print(f"error: {str(error) or 'out of memory'}", style="red")
        sys.exit(2)
    except RuntimeError as error:
        # torch's; importing it here would slow every start
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            _own_fault()
        advice = "Use a smaller train.batch_size, --batch, tile or image size, or --device cpu."
        alert.print(f"error: {str(error).splitlines()[0]} {advice}", style="red")
        sys.exit(2)
    except Exception:
        _own_fault()


def _own_fault() -> NoReturn:
    """A fault of the program: the traceback, and where to take it; an exit code that stands for nothing else."""
    traceback.print_exc()
    alert.print("This is a fault of rotanext. Report it with the lines above and what `rotanext info --json` prints.", style="red")
    sys.exit(3)
