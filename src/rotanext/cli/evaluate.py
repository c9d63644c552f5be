"""`rotanext eval`."""

from pathlib import Path
from typing import Annotated

import typer

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
    console,
    finish,
    opened,
    output,
    print_json,
    print_result,
)
from rotanext.errors import Problems


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
    from rotanext.evaluation.job import EvaluateOptions, check_options
    from rotanext.evaluation.job import evaluate as run
    from rotanext.reports.run import write_evaluation

    options = EvaluateOptions(data, out, weights, detections, merge, batch)
    check_options(options)
    detector = opened(weights, device, anchors, classes, precision, compiled, image_size, tile, overlap) if weights else None
    problems = Problems(strict)
    done = run(detector, options, problems, console)
    write_evaluation(done, out, options.about(), detector.config if detector else None, detector.device if detector else None)
    if as_json:
        print_json(done.scores.to_json() | {"out": str(out)}, problems)
    else:
        output.print(done.scores.table())
        for remark in done.scores.remarks():
            print_result(remark)
    console.print(f"report.html (open it in a browser), curves, confusion matrix and figures are in {out}")
    finish(problems)
