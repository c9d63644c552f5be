"""From the options of a training to its configuration and folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rotanext.config import Config, load_config, recipe_names
from rotanext.errors import UserError
from rotanext.training.folder import holds_training, read_run_config, reconfigured


@dataclass(frozen=True)
class TrainOptions:
    """What a training is asked for: a recipe with data, or the folder of one to go on with."""

    recipe: str | None = None  # a name or a file; with `resume` the first override
    overrides: Sequence[str] = ()  # KEY=VALUE
    data: Sequence[str] = ()  # DOTA folders
    val: Sequence[str] = ()
    run: Path | None = None  # None: runs/RECIPE
    resume: Path | None = None
    go_on: bool = False  # with the training in `run`, where there is one
    trackers: Sequence[str] = ()


class Job(NamedTuple):
    """A configuration, the folder of its run, and whether that holds a training to go on with."""

    config: Config
    folder: Path
    begun: bool


class Place(NamedTuple):
    """Whether a process trains alone, and whether it is the one of its machine that speaks."""

    alone: bool
    speaks: bool


def launched(environment: Mapping[str, str]) -> Place:
    """This process's place among those that torchrun or `accelerate launch` started, by its environment variables."""
    alone = int(environment.get("WORLD_SIZE", "1")) == 1
    return Place(alone, alone or int(environment.get("LOCAL_RANK", "0")) == 0)


def what_to_train(options: TrainOptions) -> Job:
    """The training that options ask for; raises UserError where they do not go together, or change what cannot be changed."""
    trackers = [f"train.trackers={json.dumps(list(options.trackers))}"] if options.trackers else []
    if options.resume is not None:
        named = options.recipe is not None and "=" not in options.recipe
        if options.data or options.val or options.run or options.go_on or named:
            raise UserError("--resume takes everything from the run's folder; give no recipe, --data, --val, --run or --go-on")
        changes = [options.recipe] if options.recipe else []
        saved = read_run_config(options.resume)
        return Job(reconfigured(saved, [*changes, *options.overrides, *trackers]), options.resume, True)
    if options.recipe is None:
        raise UserError(f"a recipe is needed: {', '.join(recipe_names())}, or a file")
    # absolute: --resume may be called from anywhere
    folders = {
        f"data.{key}": [str(Path(f).resolve()) for f in of] for key, of in (("train", options.data), ("val", options.val)) if of
    }
    config = load_config(options.recipe, [*options.overrides, *trackers], folders)
    folder = options.run or Path("runs") / config.name
    if options.go_on and holds_training(folder):
        return Job(reconfigured(read_run_config(folder), wanted=config), folder, True)
    return Job(config, folder, False)
