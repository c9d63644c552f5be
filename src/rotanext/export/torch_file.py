"""torch.export programs (.pt2): written by torch, read by ourselves.

torch.export.load unpickles parts of a file (`weights_only=False`) and evaluates expressions in it (`sympy.sympify`), so a file can
make it run anything. We never call it on a file that somebody else may have written: we take weights and metadata, which are bytes
and JSON, and compute with our own network. The program is for those who deploy with torch and trust the file.
"""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from rotanext.checkpoints.detectors import filled_network
from rotanext.checkpoints.layouts import FORMAT_1, OURS, map_keys
from rotanext.config import Config
from rotanext.errors import UserError, explain, shortened
from rotanext.export.metadata import Metadata, read_metadata
from rotanext.inference.detector import Detector, build_network

_EXTRA = "rotanext.json"
_WEIGHTS, _INDEX = "data/weights", "model_weights_config.json"
_TYPES = {5: torch.int64, 6: torch.float16, 7: torch.float32}  # of torch._export.serde.schema.ScalarType
_PREFIX = "network."
_LONGEST = 16 << 20  # bytes of a file's JSON
_DAMAGED = "The file is damaged or was changed; export the checkpoint again."


def write_program(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write a traced network, with its weights and metadata."""
    torch.export.save(program, path, extra_files={_EXTRA: json.dumps(metadata.to_texts())})


def read_program(path: Path) -> tuple[Config, Metadata, dict[str, Tensor]]:
    """Configuration, metadata and float32 weights of a .pt2 file; nothing in it is run. UserError for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            metadata = read_metadata(_texts(_json(archive, f"{root}/extra/{_EXTRA}")), path)
            index = _json(archive, f"{root}/{_WEIGHTS}/{_INDEX}").get("config")
            if not isinstance(index, dict):
                raise ValueError("no list of weights")
            weights = {
                name.removeprefix(_PREFIX): _tensor(archive, root, entry)
                for name, entry in index.items()
                if name.startswith(_PREFIX)
            }
    except OSError as error:
        found = f"that it cannot be read ({error.strerror or error})"
        raise UserError(explain(path, found, "an exported file", "Check the path.")) from None
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, NotImplementedError, RuntimeError,
            EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, RecursionError) as error:  # fmt: skip
        reason = f"no program of rotanext ({shortened(str(error)) or type(error).__name__})"
        raise UserError(explain(path, reason, "a file written by rotanext export", _DAMAGED)) from None
    return metadata.config, metadata, map_keys(FORMAT_1 if metadata.format == "1" else OURS, weights)


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    content = json.loads(_stored(archive, name, _LONGEST))
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds no table")
    return content


def _texts(content: dict[str, Any]) -> dict[str, str]:
    return {name: text for name, text in content.items() if isinstance(text, str)}


def _stored(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """An entry's bytes, which torch does not compress: a small file cannot become a large one."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.file_size > most:
        raise ValueError(f"{name} is compressed or too large")
    return archive.read(entry)


def _tensor(archive: zipfile.ZipFile, root: str, entry: dict[str, Any]) -> Tensor:
    """A tensor from its bytes; ValueError where they were pickled, or are too few for what its entry says."""
    if entry["use_pickle"] is not False:
        raise ValueError("pickled weights, which are not read")
    meta = entry["tensor_meta"]
    dtype = _TYPES.get(meta["dtype"])
    if dtype is None:
        raise ValueError(f"numbers of type {meta['dtype']}")
    shape, strides = ([_whole(number) for number in meta[key]] for key in ("sizes", "strides"))
    offset = _whole(meta["storage_offset"])
    content = _stored(archive, f"{root}/{_WEIGHTS}/{entry['path_name']}", 1 << 40)
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
    if len(shape) != len(strides) or math.prod(shape) > len(flat):
        raise ValueError("weights of sizes other than it says")
    values = flat.as_strided(shape, strides, offset)  # torch refuses strides that lead outside
    return (values.float() if values.is_floating_point() else values).contiguous()


def _whole(number: dict[str, Any]) -> int:
    value = number["as_int"]
    if not isinstance(value, int) or value < 0:
        raise ValueError("a size that is not a whole number")
    return value


def open_program(
    path: Path, device: torch.device, class_names: tuple[str, ...] | None, *, precision: str, compiled: bool
) -> tuple[Detector, Metadata]:
    """A detector with the weights of a .pt2 file, computed by our own network; raises UserError for a damaged file."""
    config, metadata, weights = read_program(path)
    names = class_names or metadata.class_names
    with torch.device("meta"):  # shapes alone, without memory
        shapes = build_network(config, len(names))
    for name, value in shapes.state_dict().items():
        if name.endswith(".gamma") and ".grn." not in name:  # layer scale, which the exported weights have in themselves
            weights.setdefault(name, torch.ones(value.shape))
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise UserError(explain(path, "weights that are not numbers", "finite weights", _DAMAGED))
    network, _ = filled_network(config, len(names), weights, path, "torch.export")
    return Detector(network.to(device), config, names, precision=precision, compiled=compiled), metadata
