"""How often a training opens each file of its data until its first step can begin; alone, or in several processes by torchrun.

    torchrun --nproc-per-node 2 tests/support/count_opens.py FOLDER

FOLDER holds the data sets train and val; what each process found comes back as FOLDER/opened-RANK-of-COUNT.json.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(sys.argv[1])
OPENED: Counter[str] = Counter()


def note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        path = str(arguments[0])
        if path.startswith((f"{ROOT}/train/", f"{ROOT}/val/")):
            OPENED[str(Path(path).relative_to(ROOT))] += 1


def main() -> None:
    from rich.console import Console

    from rotanext.errors import Problems
    from rotanext.system.progress import Display
    from rotanext.training.loop import Trainer
    from tiny import tiny_config

    problems = Problems()
    config = tiny_config(ROOT / "train", ROOT / "val")
    trainer = Trainer(config, ROOT / "run", "cpu", problems, Display(Console(quiet=True)))
    found = {
        "opened": OPENED,
        "problems": [problems.count, *problems.first],
        "classes": trainer.class_names,
        "entries": [[entry.stem, entry.objects.names] for entry in (*trainer.loader.dataset.entries, *trainer.validation)],  # type: ignore[attr-defined]
    }
    processes = trainer.processes
    (ROOT / f"opened-{processes.rank}-of-{processes.count}.json").write_text(json.dumps(found))
    processes.leave()


if __name__ == "__main__":
    sys.addaudithook(note)
    main()
