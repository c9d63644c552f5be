"""Writing files so that a crash or a full disk leaves the previous one whole."""

import os
from collections.abc import Callable
from pathlib import Path

from rotanext.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place; raises UserError where that fails.

    The previous file stays as it was until the new one is complete on disk.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError.
        part.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written ({error}); the previous file, if any, is untouched. "
            "Make room or choose another folder, then resume."
        ) from error
