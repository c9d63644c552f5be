"""`rotanext train`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rotanext.cli.terminal import DeviceOption, QuietOption, StrictOption, alert, console, finish
from rotanext.errors import Problems


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
    from rotanext.training.options import TrainOptions, launched, what_to_train
    from rotanext.training.train import start_training

    place = launched(os.environ)
    alert.quiet, console.quiet = not place.speaks, quiet or not place.speaks  # one message a machine
    problems = Problems(strict)
    options = TrainOptions(recipe, overrides or (), data or (), val or (), run, resume, go_on, tracker or ())
    config, folder, begun = what_to_train(options)
    start_training(config, folder, device, problems, console, resume=begun)
    # They were named at the start; launchers take every code but 0 for a failure.
    finish(problems, said=not quiet, fails=place.alone)
