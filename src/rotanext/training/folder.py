"""The folder of a training run: what is in it."""

import json
from pathlib import Path

from rotanext.config import Config, saved_values
from rotanext.system.files import write_bytes


def write_run_config(folder: Path, config: Config) -> None:
    """Save the configuration of a run in its folder; raises UserError where that fails."""
    write_bytes(folder / "config.json", (json.dumps(saved_values(config), indent=1) + "\n").encode(), durable=True)


def to_go_on(folder: Path) -> str:
    """What to do where a run's folder could not be written."""
    return f"Make room, then go on with: rotanext train --resume {folder}"
