"""`rotanext predict`."""

from pathlib import Path
from typing import Annotated, Any

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
    WeightsOption,
    console,
    finish,
    opened,
    print_json,
)
from rotanext.errors import Problems


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
    from rotanext.archive.options import cluster_options
    from rotanext.images.raster import raster_options
    from rotanext.inference.predict import PredictOptions
    from rotanext.inference.predict import predict as run
    from rotanext.inference.summary import summarise
    from rotanext.system.progress import Display

    cluster = cluster_options(sources, ray, workers, cores, chunk, device)
    options = PredictOptions(score, draw, batch, images, across_classes, raster_options(bands, stretch))
    here = "cpu" if cluster else device  # the workers have their own
    detector = opened(weights, here, anchors, classes, precision, compiled, image_size, tile, overlap)
    problems, display = Problems(strict), Display(console)
    summary: Any  # both kinds have text and to_json
    if cluster:
        from rotanext.archive.cluster import predict_archive

        summary = predict_archive(detector, sources[0], out, options, cluster, problems, display)
    else:
        summary = summarise(run(detector, sources, Path(out), options, problems, display), draw)
    console.print(summary.text(out))
    if as_json:
        print_json(summary.to_json(out), problems)
    finish(problems)
