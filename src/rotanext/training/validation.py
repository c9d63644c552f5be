"""Validation within a training: detections on whole images, shared by the processes, and what they are scored by."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rotanext.config import Config
from rotanext.data.index import Entry
from rotanext.errors import Problems, UserError
from rotanext.evaluation.evaluate import detect_shared, gather, keep_readable
from rotanext.evaluation.metrics import Evidence
from rotanext.inference.detector import Detector, build_network
from rotanext.models.network import Network
from rotanext.system.processes import Processes
from rotanext.system.progress import Display
from rotanext.training.feeding import vanished
from rotanext.training.sharding import whole


class Validation(NamedTuple):
    """Whether it came to its end, and (on the main process) what the detector found beside what is labelled."""

    finished: bool
    evidence: Evidence | None


def validate(
    detector: Detector,
    entries: Sequence[Entry],
    processes: Processes,
    display: Display,
    problems: Problems,
    stopped: Callable[[], bool],
    run: Path,
) -> Validation:
    """Detect on every entry, each process on its share; unfinished, on all processes, where `stopped` in one of them.

    Images that cannot be read go to `problems`; UserError, in all processes, where a whole folder has vanished.
    """
    known, mine = problems.count, entries[processes.rank :: processes.count]
    found = detect_shared(detector, entries, display.track(mine, "validating", len(mine)), processes, stopped)
    if found is None:
        return Validation(False, None)
    evidence = None
    with processes.together():
        if processes.is_main:
            read, detections = keep_readable(found, problems)
            if problems.count > known:
                if gone := vanished(detector.config.data.val):
                    raise UserError(f"{gone} Go on with: rotanext train --resume {run}")
                display.say(f"validating without {problems.count - known} images that cannot be read")
            evidence = gather(detections, read, detector.class_names)
    return Validation(True, evidence)


def whole_network(part: Network, config: Config, num_classes: int, processes: Processes) -> Network:
    """The network whose parameters the processes share, whole in each of them."""
    with torch.random.fork_rng():
        network = build_network(config, num_classes).to(processes.device)
    network.load_state_dict(whole(part.state_dict()))
    return network
