"""Weights & Biases and MLflow through accelerate's trackers; nothing of them is imported before somebody asks for one.

TensorBoard's files, which need no service, are written by system/progress.py.
"""

import json
import os
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, MLflowTracker, WandBTracker

from rotanext.config import Config, flat_values
from rotanext.errors import UserError
from rotanext.system.files import write_bytes

PROJECT = "rotanext"
_IDS = "trackers.json"  # in the run's folder: a resumed training goes on in the same run of its tracker
_ADVICE = {
    "wandb": "Log in (wandb login), or set WANDB_MODE=offline and send the run later (wandb sync).",
    "mlflow": "Check MLFLOW_TRACKING_URI; without it runs go to files in the current folder.",
}


def open_trackers(config: Config, folder: Path) -> list[GeneralTracker]:
    """The trackers that `train.trackers` names, TensorBoard aside, started and told the configuration.

    The run is named like the folder; projects, servers and accounts are chosen by the packages' own environment variables
    (WANDB_PROJECT, MLFLOW_TRACKING_URI, ...). Raises UserError where a package is missing or its service refuses.
    """
    known, started = _read_ids(folder / _IDS), []
    for name in dict.fromkeys(config.train.trackers):
        if name not in _OPEN:
            continue
        try:
            import_module(name)
        except ImportError as error:
            raise UserError(
                f"train.trackers: found {name}, but the package cannot be imported ({error}); expected it beside rotanext. "
                f"Install it (pip install {name}), or leave --tracker {name} out: metrics.jsonl has every figure."
            ) from None
        try:
            tracker, known[name] = _OPEN[name](folder, known.get(name))
            tracker.store_init_configuration({key: _plain(value) for key, value in flat_values(config).items()})
        except Exception as error:  # no account, no network, a server's own errors: any kind
            raise UserError(f"train.trackers: {name} could not be started ({error}). {_ADVICE[name]}") from None
        started.append(tracker)
    if started:
        write_bytes(folder / _IDS, (json.dumps(known) + "\n").encode(), durable=True)
    return started


def _open_wandb(folder: Path, run: str | None) -> tuple[GeneralTracker, str]:
    run = run or uuid.uuid4().hex[:12]
    tracker = WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name, dir=str(folder), id=run, resume="allow")
    tracker.start()
    return tracker, run


def _open_mlflow(folder: Path, run: str | None) -> tuple[GeneralTracker, str]:
    tracker = MLflowTracker(PROJECT, run_id=run, run_name=None if run else folder.name)
    tracker.start()
    return tracker, str(tracker.tracker.info.run_id)


_OPEN: dict[str, Callable[[Path, str | None], tuple[GeneralTracker, str]]] = {"wandb": _open_wandb, "mlflow": _open_mlflow}


def _read_ids(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in values.items() if isinstance(v, str)} if isinstance(values, dict) else {}


def _plain(value: Any) -> str | int | float | bool:
    """Lists as text: what every tracker takes."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)
