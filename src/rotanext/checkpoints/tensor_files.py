"""Checkpoint files: the zip of torch.save, its older stream of pickles, and safetensors; the pickles are read by unpickle.py."""

import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from rotanext.checkpoints.unpickle import STORAGE_TYPES, Global, Machine, Refused, Storage, _text
from rotanext.errors import UserError, explain, shortened

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in files of torch.save before version 1.6
DAMAGE = (
    ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, MemoryError, RuntimeError, struct.error,
    AttributeError, AssertionError, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip


def _empty_storage(persistent_id: Any, room: int) -> tuple[np.ndarray, Storage]:
    """Writable bytes and the storage on them for ('storage', type, key, location, elements, ...)."""
    if type(persistent_id) is not tuple or len(persistent_id) < 5 or persistent_id[0] != "storage":
        raise ValueError("a reference to something other than a tensor's data")
    kind, elements = persistent_id[1], persistent_id[4]
    if type(kind) is not Global or kind.name not in STORAGE_TYPES:
        raise ValueError(f"data of type {kind.name if type(kind) is Global else type(kind).__name__}")
    dtype = STORAGE_TYPES[kind.name]
    if type(elements) is not int or not 0 <= elements * dtype.itemsize <= room or any(persistent_id[5:]):
        raise ValueError("a tensor that claims more data than the file holds")
    content = np.zeros(elements * dtype.itemsize, dtype=np.uint8)
    return content, Storage(torch.from_numpy(content).untyped_storage(), dtype)


def _read_zip(file: IO[bytes], size: int) -> Any:
    """The value of a file by torch.save from version 1.6 on: a zip without compression."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in entries.values()):
            raise ValueError("a compressed or encrypted archive, which torch.save does not write")
        if sum(info.file_size for info in entries.values()) > size:
            raise ValueError("entries that claim more data than the file holds")
        roots = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise ValueError("a zip archive without the one data.pkl that torch.save writes")
        root = roots[0]
        if root + "byteorder" in entries and archive.read(root + "byteorder") != b"little":
            raise ValueError("numbers in big-endian order")
        known: dict[str, Storage] = {}

        def storage(persistent_id: Any) -> Storage:
            key = _text(persistent_id[2])
            if key not in known:
                entry = entries[f"{root}data/{key}"]
                content, known[key] = _empty_storage(persistent_id, entry.file_size)
                with archive.open(entry) as stream:
                    content[:] = np.frombuffer(stream.read(), dtype=np.uint8)[: len(content)]
            return known[key]

        with archive.open(root + "data.pkl") as stream:
            return Machine(4 * size, storage).run(stream)


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """The value of a plain pickle, or of a file by torch.save before 1.6: four pickles, keys, then the data."""
    contents: dict[str, tuple[np.ndarray, Storage]] = {}
    room = size

    def storage(persistent_id: Any) -> Storage:
        nonlocal room
        key = _text(persistent_id[2])
        if key not in contents:
            contents[key] = _empty_storage(persistent_id, room)
            room -= len(contents[key][0])
        return contents[key][1]

    value = Machine(4 * size, storage).run(file)
    if type(value) is not int or value != LEGACY_MAGIC:
        if contents:
            raise ValueError("tensors without data")
        return value
    _, system, value, keys = (Machine(4 * size, storage).run(file) for _ in range(4))
    if system.get("little_endian") is not True:
        raise ValueError("numbers in big-endian order")
    for key in keys:
        content, empty = contents.pop(str(key))
        (elements,) = struct.unpack("<q", file.read(8))
        if elements * empty.dtype.itemsize != len(content) or file.readinto(content.data) != len(content):  # type: ignore[attr-defined]
            raise ValueError("less data than its tensors need")
    if contents:
        raise ValueError("tensors without data")
    return value


def read_tensors(path: str | Path) -> dict[str, Any]:
    """The content alone of `read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Content and header (of .safetensors; else {}) of a checkpoint (.pth, .pt, .bin, .pkl, .safetensors); nothing in it is run.

    Tensors, NumPy arrays and plain data are rebuilt, objects of the MM toolboxes' classes become `Placeholder`s. Raises
    `UserError` for a file that is missing, damaged, no checkpoint, or that refers to anything else.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[8:9] == b"{":
                return _read_safetensors(path)
            if start[:2] == b"PK":
                value = _read_zip(file, size)
            elif start[:1] == b"\x80":
                value = _read_legacy(file, size)
            else:
                raise ValueError("an empty file" if size == 0 else f"the first bytes {start!r}")
    except OSError as error:
        raise UserError(explain(path, error.strerror or str(error), "a checkpoint file", _missing_advice(path))) from None
    except Refused as error:
        advice = (
            "The file was refused and nothing in it was run: it may be an attack, or a whole pickled program "
            "instead of weights. Take it from a source you trust, saved as a state dict or as .safetensors."
        )
        raise UserError(explain(path, shortened(str(error)), "tensors and plain data only", advice)) from None
    except DAMAGE as error:
        cut = isinstance(error, EOFError | struct.error | zipfile.BadZipFile)
        found = "a cut-off file" if cut else f"damage ({shortened(str(error))})"
        advice = "The file is damaged, incomplete or no checkpoint: fetch it again."
        raise UserError(explain(path, found, "a checkpoint by torch.save or safetensors", advice)) from None
    if not isinstance(value, dict):
        advice = "Save a state dict, not a model or a single tensor."
        raise UserError(explain(path, f"a pickled {type(value).__name__}", "a dict with tensors", advice))
    return value, {}


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no dict


def _missing_advice(path: Path) -> str:
    """For weights that are not there: others beside them, such as the last ones of a training before its first validation."""
    try:
        others = sorted(path.parent.glob("*.safetensors")) if path.parent.is_dir() and not path.exists() else []
    except OSError:  # a name that is too long, a folder that may not be entered
        others = []
    return f"There is {others[-1]}." if others else "Check the path."
