"""`rotanext serve`."""

from typing import Annotated

import typer

from rotanext.cli.terminal import (
    AnchorsOption,
    ClassesOption,
    DeviceOption,
    ImageSizeOption,
    OverlapOption,
    PrecisionOption,
    QuietOption,
    TileOption,
    WeightsOption,
    console,
    opened,
)
from rotanext.errors import extra


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
    with extra("serve", "rotanext serve"):
        from rotanext.serve.limits import Limits
        from rotanext.serve.server import ServeOptions
        from rotanext.serve.server import serve as run

    detector = opened(weights, device, anchors, classes, precision, False, image_size, tile, overlap)
    limits = Limits(round(max_upload * 1e6), max_pixels, timeout, concurrency)
    run(detector, ServeOptions(host, port, token, batch, limits), console)
