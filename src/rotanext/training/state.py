"""The states of a training on disk: numbered files, each whole or absent, the newest whole one to go on from."""

import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotanext.checkpoints.layouts import FORMAT_1, map_keys
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.config.formats import FORMAT
from rotanext.errors import UserError, explain, first_line, shortened
from rotanext.system.files import remove_parts, write_atomically
from rotanext.training.folder import LAST, STATES, state_files, to_go_on

State = dict[str, Any]


@dataclass
class Progress:
    """Where a training stands; with the weights, all that a resumed one needs."""

    step: int = 0  # optimiser steps done
    bad_steps: int = 0  # in a row, skipped because loss or gradient was not finite
    best: float = -1.0
    validated: int = 0  # the last epoch that was
    skipped: int = 0  # of all steps, those that were skipped


_CONTENTS = {
    "progress", "model", "averaged", "optimizer", "random", "scaler", "class_names", "images", "total_batch", "rows", "format",
}  # fmt: skip


def save_state(folder: Path, step: int, state: State, keep: int) -> None:
    """Write the state after `step`; only when it is on disk whole, all but the last `keep` go.

    States of later steps go, too: the training has gone back behind them. Raises UserError where writing fails.
    """
    path = folder / STATES / f"state-{step:08d}.pt"
    write_atomically(path, lambda part: torch.save(state, part), durable=True, advice=to_go_on(folder))
    files = state_files(folder)
    later = [old for old in files if old.name > path.name]
    for old in [*later, *files[len(later) + keep :]]:
        with suppress(OSError):  # of no use, but no harm either
            old.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written; only while nobody else writes there."""
    for place in (folder, folder / STATES):
        remove_parts(place)


def newest_state(folder: Path, say: Callable[[str], object]) -> State:
    """The newest state that is whole; damaged ones are said. Raises UserError where there is none."""
    files = state_files(folder)
    if not files:
        raise UserError(f"{folder / STATES}: no saved training to resume; start one with: rotanext train RECIPE --run {folder}")
    for number, path in enumerate(files, 1):
        try:
            return _read(path)
        except Exception as error:  # a damaged file fails in a dozen ways
            reason = shortened(first_line(error))
            if number < len(files):
                say(f"{path}: damaged ({reason}); going on from the one before")
    advice = f"It cannot be resumed; weights to start from may be in {folder / LAST}."
    raise UserError(explain(path, f"damage ({reason})", "a saved training", advice))


def _read(path: Path) -> State:
    """A state, with every byte checked; raises all kinds of errors for a file that is not whole."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load checks no sums
    if damaged:
        raise ValueError(f"the checksum of {damaged} is wrong")
    state: State = read_tensors(path)
    if "format" not in state:
        state = _from_format_1(state)
    if missing := _CONTENTS - state.keys():
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    return state


def _from_format_1(state: State) -> State:
    """A state of rotanext 0.1.0 under today's names; parameters are in the same order, so the optimiser's part stays."""
    state = {"images" if key == "pictures" else key: value for key, value in state.items()}
    for key in ("model", "averaged"):
        if isinstance(state.get(key), dict):
            state[key] = map_keys(FORMAT_1, state[key])
    return state | {"format": FORMAT}


def check_same_data(folder: Path, state: State, class_names: tuple[str, ...], images: int) -> None:
    """Raise UserError where classes or the number of images are no longer those that the training began with."""
    advice = "Restore the data, or start a new training in another --run folder."
    if tuple(state["class_names"]) != class_names:
        found = f"a training of the classes {', '.join(state['class_names'])}"
        raise UserError(explain(folder / STATES, found, f"{', '.join(class_names)}, as in the data now", advice))
    if state["images"] != images:
        found = f"a training on {state['images']} images"
        raise UserError(explain(folder / STATES, found, f"{images}, as in the data now", advice))


def seed_process(seed: int, rank: int, step: int = 0) -> None:
    """Give a process other than the first its own random numbers (for drop path); the first one's go on."""
    if rank:
        torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1)[0]))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """What torch's generators of a process need to go on."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Let a process's generators go on; one of another kind of device begins anew."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type])
