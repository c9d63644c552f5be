"""The command line: every command parses its options and calls one function."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rotanext.errors import Problems, UserError

app = typer.Typer(
    name="rotanext",
    help="Oriented object detection with ConvNeXt backbones: train, evaluate, predict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich" if sys.stderr.isatty() else None,  # no frames around lines that go to a file
)
# Messages hold paths, which neither line breaks nor "[...]" as markup may change.
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
output = Console()

DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps or auto.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse invalid input instead of skipping and counting it.")]
WeightsOption = Annotated[Path, typer.Option("--weights", "-w", help="A checkpoint: ours, or of MMRotate 0.x or 1.x.")]
AnchorsOption = Annotated[
    str | None, typer.Option("--anchors", help="v0 or v1: the anchors of an MMRotate checkpoint that does not tell.")
]
ClassesOption = Annotated[
    str | None,
    typer.Option("--classes", help="dota1.0, dota1.5, dota2.0 or a text file, where the checkpoint has no names."),
]

PrecisionOption = Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16: what the network computes in.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="Through torch.compile: slower to start, then faster.")]
ImageSizeOption = Annotated[
    int | None, typer.Option("--image-size", help="Shrink or enlarge pictures to this size; 0: as they are, in tiles.")
]
TileOption = Annotated[int | None, typer.Option("--tile", help="Side of the tiles larger pictures are cut into.")]
GapOption = Annotated[int | None, typer.Option("--gap", help="Overlap of neighbouring tiles.")]


def _finish(problems: Problems) -> None:
    """Say what was skipped; exit code 1 then: everything else is done."""
    summary = problems.summary()
    if summary:
        console.print(summary, style="yellow")
        raise typer.Exit(1)


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
    run: Annotated[Path, typer.Option("--run", help="Where pictures, curves, figures and the checkpoint go.")] = Path("runs/demo"),
    device: DeviceOption = "cpu",
) -> None:
    """Draw a synthetic aerial data set, train on it, evaluate, detect on a large scene: a few minutes on two CPU cores."""
    from rotanext.demo import run_demo

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
    device: DeviceOption = "auto",
    strict: StrictOption = False,
) -> None:
    """Train a detector, in one process or (torchrun, accelerate launch) in several."""
    from rotanext.config import load_config, recipe_names
    from rotanext.train import holds_training, read_run_config, reconfigured, start_training

    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    console.quiet = int(os.environ.get("LOCAL_RANK", "0")) > 0 and not alone  # one message a machine
    if resume is not None:
        if data or val or run or go_on or (recipe and "=" not in recipe):
            raise UserError("--resume takes everything from the run's folder; give no recipe, --data, --val, --run or --go-on")
        config, folder = reconfigured(read_run_config(resume), [recipe, *(overrides or [])] if recipe else []), resume
    else:
        if recipe is None:
            raise UserError(f"a recipe is needed: {', '.join(recipe_names())}, or a file")
        config = load_config(recipe, [*(overrides or []), *_paths("train", data), *_paths("val", val)])
        folder = run or Path("runs") / config.name
        if go_on and holds_training(folder):
            config, resume = reconfigured(read_run_config(folder), wanted=config), folder
    problems = Problems(strict)
    start_training(config, folder, device, problems, console, resume=resume is not None)
    if problems.count and alone:  # they were named at the start; launchers take every code but 0 for a failure
        raise typer.Exit(1)


def _paths(key: str, folders: list[str] | None) -> list[str]:
    """An override that sets a list of data folders, absolute: --resume may be called from anywhere."""
    import json

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
    gap: GapOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    compiled: CompileOption = False,
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    strict: StrictOption = False,
) -> None:
    """Score a detector, or files of detections, by the DOTA protocol with true polygon IoU."""
    from rotanext.evaluate import evaluate_files, evaluate_weights, write_report

    if (weights is None) == (detections is None):
        raise UserError("give either --weights (a detector) or --detections (a folder of Task1_*.txt)")
    problems = Problems(strict)
    if detections is not None:
        report = evaluate_files(detections, data, out, merge, problems)
    else:
        assert weights is not None
        if merge is not None:
            raise UserError("--merge belongs to --detections; a detector merges its tiles itself")
        detector = _load(weights, device, anchors, classes, precision, compiled)
        detector = detector.reconfigured(image_size=image_size, tile=tile, gap=gap)
        report = evaluate_weights(detector, data, out, batch, problems, console)
    output.print(report.table())
    write_report(report, out)
    console.print(f"curves, confusion matrix and figures are in {out}")
    _finish(problems)


@app.command()
def predict(
    source: Annotated[
        str,
        typer.Argument(help="A picture or raster, a folder of them, or a quoted glob; with --ray also a .txt list, or s3://... ."),
    ],
    weights: WeightsOption,
    out: Annotated[str, typer.Option("--out", help="Where the results go.")] = "runs/predict",
    score: Annotated[
        float | None, typer.Option("--score", min=0, max=1, help="Lowest score written; the model's own by default.")
    ] = None,
    draw: Annotated[float, typer.Option("--draw", min=0, max=1, help="Lowest score drawn.")] = 0.3,
    pictures: Annotated[bool, typer.Option(help="Draw the boxes.")] = True,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Tiles computed at once.")] = 1,
    image_size: ImageSizeOption = None,
    tile: TileOption = None,
    gap: GapOption = None,
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
        typer.Option("--ray", help="An archive through Ray: local, auto or HOST:PORT. Writes Parquet, no pictures."),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="With --ray: one per GPU, or per cores.")] = None,
    cores: Annotated[int | None, typer.Option("--cores-per-worker", min=1, help="With --ray, without GPUs: up to 4.")] = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="With --ray: tiles a worker computes at a time, 32.")] = None,
) -> None:
    """Detect objects in pictures and rasters of any size; write DOTA text and zip, JSON, GeoJSON and drawn pictures."""
    from rotanext.data.raster import raster_options
    from rotanext.predict import PredictOptions
    from rotanext.predict import predict as run
    from rotanext.progress import Reporter

    problems = Problems(strict)
    if ray is None and (workers or cores or chunk):
        raise UserError("--workers, --cores-per-worker and --chunk belong to --ray")
    if ray is None and ("://" in source or source.endswith(".txt")):
        raise UserError(f"{source}: addresses and lists of them are read with --ray local (or a cluster's address)")
    detector = _load(weights, device if ray is None else "cpu", anchors, classes, precision, compiled)
    detector = detector.reconfigured(image_size=image_size, tile=tile, gap=gap)
    options = PredictOptions(score, draw, batch, pictures, across_classes, raster_options(bands, stretch))
    if ray is not None:
        from rotanext.archive.cluster import ClusterOptions, predict_archive

        cluster = ClusterOptions(ray, workers, cores, chunk or ClusterOptions.chunk, device)
        summary = predict_archive(detector, source, out, options, cluster, problems, Reporter(console))
        console.print(summary.text(out))
        return _finish(problems)
    found = run(detector, source, Path(out), options, problems, Reporter(console))
    total, sure = sum(map(len, found.values())), sum(int((d.scores >= draw).sum()) for d in found.values())
    console.print(f"{total} objects in {len(found)} pictures, {sure} with a score of at least {draw}; results are in {out}")
    _finish(problems)


@app.command()
def split(
    source: Annotated[Path, typer.Argument(help="A DOTA folder.")],
    target: Annotated[Path, typer.Argument(help="The folder for the tiles, another DOTA folder.")],
    size: Annotated[int, typer.Option(help="Side of the square tiles.")] = 1024,
    gap: Annotated[int, typer.Option(help="Overlap of neighbouring tiles.")] = 200,
    rates: Annotated[str, typer.Option(help="Scales, as in 0.5,1.0,1.5.")] = "1.0",
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one per core by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    strict: StrictOption = False,
) -> None:
    """Cut a data set into tiles, pictures and labels."""
    from rotanext.data.split import split_dataset

    try:
        scales = tuple(float(rate) for rate in rates.split(","))
    except ValueError:
        raise UserError(f"--rates is '{rates}'; expected numbers with commas between, as in 0.5,1.0,1.5") from None
    problems = Problems(strict)
    report = split_dataset(source, target, size, gap, scales, workers=workers, problems=problems, overwrite=overwrite)
    labels = "" if report.labelled else " (no labels: pictures only)"
    console.print(
        f"{report.tiles} tiles of {report.images} pictures, {report.empty_tiles} without objects, {report.objects} objects, "
        f"in {report.seconds:.1f} s: {target}{labels}"
    )
    _finish(problems)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of any known layout.")],
    target: Annotated[Path, typer.Argument(help="The file to write, ending in .safetensors.")],
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
) -> None:
    """Turn a checkpoint of MMRotate, mmpretrain, the ConvNeXt authors, timm or torchvision into ours."""
    from rotanext.convert import convert_checkpoint

    for line in convert_checkpoint(source, target, anchors, classes):
        console.print(line)


@app.command()
def info() -> None:
    """Print versions, devices and active kernels."""
    from rotanext.info import environment

    for key, value in environment().items():
        output.print(f"{key:>14}  {value}", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line; a user's mistake ends with one message and exit code 2, never a traceback."""
    try:
        app()
    except UserError as error:
        console.print(f"error: {error}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted", style="yellow")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except (OSError, MemoryError) as error:
        console.print(f"error: {str(error) or 'out of memory'}", style="red")
        sys.exit(2)
    except RuntimeError as error:
        # torch's; importing it here would slow every start
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            raise
        advice = "Use a smaller train.batch_size, --batch, tile or picture size, or --device cpu."
        console.print(f"error: {str(error).splitlines()[0]} {advice}", style="red")
        sys.exit(2)
