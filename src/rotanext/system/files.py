"""Writing files so that a crash or a full disk leaves the previous one whole."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from rotanext.errors import UserError, explain

MAKE_ROOM = "Make room or choose another folder."


def write_atomically(path: Path, write: Callable[[Path], object], durable: bool = False, advice: str = MAKE_ROOM) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place; raises UserError with `advice` where that fails.

    The previous file stays as it was until the new one is complete; of a write that fails nothing is left behind, of one that is
    killed a hidden file may be, see `remove_parts`. durable: complete on the disk itself, so that not even a power failure costs
    both files. That takes milliseconds a file: for what a run goes on from, not for thousands of tiles.
    """
    part = part_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save reports a full disk as a RuntimeError.
        raise UserError(f"{path}: could not be written ({error}); the previous file, if any, is untouched. {advice}") from error
    finally:
        _remove(part)


def write_bytes(path: str | Path, data: bytes, durable: bool = False, advice: str = MAKE_ROOM) -> None:
    """Write a file whole or not at all; see `write_atomically`."""
    write_atomically(Path(path), lambda part: part.write_bytes(data), durable, advice)


def part_beside(path: Path) -> Path:
    """The hidden temporary file, this process's own, that becomes `path` when it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half written in a folder; only while nobody else writes there."""
    for part in folder.glob(".*.part"):
        _remove(part)


def make_folder(path: Path) -> None:
    """Make a folder for results, with its parents, before the work starts; raises UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = part_beside(path / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        found = "a file" if path.is_file() else f"that it cannot be written ({error.strerror or error})"
        raise UserError(explain(path, found, "a folder to write results to", "Choose another folder.")) from None


def _sync_folder(folder: Path) -> None:
    """Let the new name survive a power failure, on systems that can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(part: Path) -> None:
    with suppress(OSError):  # such as a parent that is a file: there is nothing to remove
        part.unlink()
