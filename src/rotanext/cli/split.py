"""`rotanext split`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rotanext.cli.terminal import JsonOption, QuietOption, StrictOption, console, finish, print_json
from rotanext.errors import Problems


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
    from rotanext.data.split import parse_rates, split_dataset

    scales, problems = parse_rates(rates), Problems(strict)
    report = split_dataset(
        source, target, size, overlap, scales, workers=workers, problems=problems, overwrite=overwrite, progress=not quiet
    )
    console.print(report.text(target))
    if as_json:
        print_json(asdict(report) | {"out": str(target)}, problems)
    finish(problems)
