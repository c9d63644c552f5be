"""`rotanext demo`; what it does is in demo_run.py."""

from pathlib import Path
from typing import Annotated

import typer

from rotanext.cli.terminal import DeviceOption, QuietOption, console


def demo(
    run: Annotated[Path, typer.Option("--run", help="Where images, curves, figures and the checkpoint go.")] = Path("runs/demo"),
    device: DeviceOption = "cpu",
    quiet: QuietOption = False,
) -> None:
    """Draw a synthetic aerial data set, train on it, evaluate, detect on a large scene: a few minutes on two CPU cores."""
    from rotanext.cli.demo_run import run_demo

    run_demo(run, device, console)
