"""The folder of a training run: what its files are called, what it holds, and the configuration that goes on in it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rotanext.config import Config, flat_values, saved_values, validate_saved, with_overrides
from rotanext.config.parts import DataConfig
from rotanext.errors import UserError, explain
from rotanext.system.files import write_bytes

CONFIG, LOG, STATES = "config.json", "metrics.jsonl", "states"
LAST, BEST = "last.safetensors", "best.safetensors"  # detectors
CHANGEABLE = ("data.workers", "data.cache", "train.save_every", "train.keep", "train.shard", "train.trackers")


def state_files(folder: Path) -> list[Path]:
    """The states saved in a run's folder, newest first."""
    return sorted((folder / STATES).glob("state-*.pt"), reverse=True)


def holds_training(folder: Path) -> bool:
    """Whether a training has saved something there."""
    return bool(state_files(folder)) or any((folder / name).exists() for name in (LAST, BEST))


def read_run_config(folder: Path) -> Config:
    """The configuration a run was started with."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{path}: not found; {folder} is not the folder of a training run")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        advice = "Restore the file; the checkpoints hold the configuration, too."
        raise UserError(explain(path, f"that it cannot be read ({error})", "the configuration of the run", advice)) from None
    return validate_saved(values, str(path))


def reconfigured(saved: Config, overrides: Sequence[str] = (), wanted: Config | None = None) -> Config:
    """A run's configuration with those values changed, by overrides or as in `wanted`, that do not change the training's result.

    Raises UserError for others.
    """
    new = wanted or with_overrides(saved, overrides)
    before, after = flat_values(saved), flat_values(new)
    # the batch of a process follows from the total; see _with_same_total
    keys = dict.fromkeys((*before, *after))
    changed = [key for key in keys if after.get(key) != before.get(key) and key not in (*CHANGEABLE, "train.batch_size")]
    if changed:
        advice = f"these may change: {', '.join(CHANGEABLE)}"
        first = changed[0]
        raise UserError(
            f"--resume takes everything from the run's folder, and so does --go-on: {first} is {before.get(first)!r} there, not "
            f"{after.get(first)!r}; {advice}. Start a new training in another --run folder."
        )
    return new


def check_data_is_there(folder: Path, data: DataConfig) -> None:
    """Raise UserError where a folder that the run in `folder` was started with is gone, and say what to do if it has moved."""
    for key in ("train", "val"):
        for root in getattr(data, key):
            if not os.path.isdir(root):  # noqa: PTH112 (Path's raises for a dead network drive)
                advice = f"Bring it back, or, if it has moved, write its new place under data.{key} in {folder / CONFIG}."
                raise UserError(explain(root, "that the folder is gone", "the data that this training began with", advice))


def write_run_config(folder: Path, config: Config) -> None:
    """Save the configuration of a run in its folder; raises UserError where that fails."""
    write_bytes(folder / CONFIG, (json.dumps(saved_values(config), indent=1) + "\n").encode(), durable=True)


def to_go_on(folder: Path) -> str:
    """What to do where a run's folder could not be written."""
    return f"Make room, then go on with: rotanext train --resume {folder}"
