"""What all commands say and take alike: their streams, and the options that several have.

Results go to stdout, everything else to stderr: what is said on the way through `console`, which `--quiet` silences; errors and
what was skipped through `alert`, which it does not. With `--json` stdout holds one JSON object and nothing else.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from rotanext.errors import Problems

if TYPE_CHECKING:
    from rotanext.inference.detector import Detector

# Messages hold paths, which neither line breaks nor "[...]" as markup may change.
console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
alert = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


class _Output(Console):
    """Stdout; a reader that went away (`| head`) ends the program as a signal would."""

    def on_broken_pipe(self) -> NoReturn:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed
        raise SystemExit(141)


output = _Output()


def _hush(quiet: bool) -> bool:
    console.quiet = quiet
    logging.getLogger("rotanext").setLevel(logging.ERROR if quiet else logging.NOTSET)
    return quiet


DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps or auto.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_hush, help="Say nothing on the way; only results, errors and what was skipped.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout, for other programs.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse invalid input instead of skipping and counting it.")]
WeightsOption = Annotated[
    Path, typer.Option("--weights", "-w", help="A checkpoint: ours, or of MMRotate 0.x or 1.x; or an exported file.")
]
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
    int | None, typer.Option("--image-size", help="Shrink or enlarge images to this size; 0: as they are, in tiles.")
]
TileOption = Annotated[int | None, typer.Option("--tile", help="Side of the tiles larger images are cut into.")]
OverlapOption = Annotated[int | None, typer.Option("--overlap", help="Overlap of neighbouring tiles.")]


def opened(
    weights: Path,
    device: str,
    anchors: str | None,
    classes: str | None,
    precision: str = "fp32",
    compiled: bool = False,
    image_size: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> "Detector":
    """The detector that these options name; says what its file told on the way."""
    from rotanext.load import read_detector

    detector, notes = read_detector(
        weights, device=device, anchors=anchors, classes=classes, precision=precision, compiled=compiled
    )
    for note in notes:
        console.print(f"{weights.name}: {note}", style="dim")
    return detector.reconfigured(image_size=image_size, tile=tile, overlap=overlap)


def finish(problems: Problems, said: bool = False, fails: bool = True) -> None:
    """Say what was skipped, unless it was said before; exit code 1 then, if it `fails`: everything else is done."""
    summary = problems.summary()
    if summary and not said:
        alert.print(summary, style="yellow")
    if summary and fails:
        raise typer.Exit(1)


def print_json(result: dict[str, Any], problems: Problems | None = None) -> None:
    """The result on stdout, with what was skipped."""
    skipped = {"skipped": problems.count, "problems": problems.first} if problems else {}
    output.out(json.dumps(result | skipped, indent=1), highlight=False)


def print_result(text: str) -> None:
    """A result on stdout as it is, whatever stands in it."""
    output.print(text, highlight=False, markup=False, soft_wrap=True)
