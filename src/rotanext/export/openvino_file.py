"""OpenVINO's files: an .xml with the graph and metadata, and a .bin beside it with the weights; made from the ONNX graph."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotanext.errors import UserError, explain, shortened
from rotanext.export.graph import OUTPUTS
from rotanext.export.metadata import PREFIX, Metadata, read_metadata
from rotanext.export.onnx_file import _DAMAGED, Run, _unusable, need
from rotanext.system.signals import keeping_signal_stack

_MARK = b"\n<!-- rotanext sha256 "  # behind the document, of everything before it and of the weights
_END = b" -->\n"


def weights_of(path: Path) -> Path:
    """The file of the weights that belong to an .xml."""
    return path.with_suffix(".bin")


def write_openvino(source: Path, path: Path, metadata: Metadata) -> None:
    """Write an ONNX file as `path` (.xml) and `weights_of(path)`; with fp16 the weights are stored in half precision."""
    need("openvino", "openvino")
    import openvino

    model = openvino.Core().read_model(source)
    for name, text in metadata.to_texts().items():
        model.set_rt_info(text, ["rotanext", name.removeprefix(PREFIX)])
    openvino.save_model(model, path, compress_to_fp16=metadata.precision == "fp16")
    path.write_bytes(sealed(path.read_bytes(), weights_of(path).read_bytes()))


def sealed(document: bytes, weights: bytes) -> bytes:
    """The document with the checksum behind it that `check_openvino` looks for."""
    return document + _MARK + _digest(document, weights).encode() + _END


def _digest(document: bytes, weights: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(document).digest() + hashlib.sha256(weights).digest()).hexdigest()


def check_openvino(path: Path) -> tuple[bytes, bytes]:
    """The graph's and the weights' bytes where they are as they were written; raises UserError for any others."""
    parts = []
    for file in (path, weights_of(path)):
        try:
            parts.append(file.read_bytes())
        except OSError as error:
            found = f"that {file.name} cannot be read ({error.strerror or error})"
            raise UserError(explain(path, found, "an .xml and its .bin, side by side", "Copy both files.")) from None
    document, mark, rest = parts[0].rpartition(_MARK)
    if not mark:
        found = "no checksum of rotanext"
        raise UserError(explain(path, found, "a file written by rotanext export", "Export the checkpoint again."))
    if rest.removesuffix(_END) != _digest(document, parts[1]).encode():
        raise UserError(explain(path, "a checksum that is not the one in it", "the files as they were exported", _DAMAGED))
    return document, parts[1]


def open_openvino(path: Path, device: torch.device | None) -> tuple[Run, Metadata, torch.device]:
    """A function that computes an exported OpenVINO file, and what it says of itself; on the CPU."""
    document, weights = check_openvino(path)
    need("openvino", "openvino")
    import openvino

    if device is not None and device.type != "cpu":
        raise UserError(f"device '{device}' cannot be used by OpenVINO here; use cpu.")
    core = openvino.Core()
    try:
        tensor = openvino.Tensor(np.frombuffer(weights, np.uint8).copy())
        model = core.read_model(document, tensor)
        metadata = read_metadata(_texts(model), path)
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        if metadata.precision != "int8":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        with keeping_signal_stack():
            request = core.compile_model(model, "CPU", options).create_infer_request()
        names = [sorted(port.get_names()) for port in (*model.inputs, *model.outputs)]
    except UserError:
        raise
    except Exception as error:  # OpenVINO's are of many kinds
        raise UserError(_unusable(path, "OpenVINO", error)) from None
    if not all(name in found for name, found in zip((metadata.input, *OUTPUTS), names, strict=False)) or len(names) != 3:
        raise UserError(explain(path, f"ports {shortened(str(names))}", f"{metadata.input}, {', '.join(OUTPUTS)}", _DAMAGED))

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            with keeping_signal_stack():
                found = request.infer({metadata.input: images})
        except Exception as error:
            raise UserError(_unusable(path, "OpenVINO", error)) from None
        return found[OUTPUTS[0]].copy(), found[OUTPUTS[1]].copy()

    return run, metadata, torch.device("cpu")


def _texts(model: Any) -> dict[str, str]:
    """The metadata in a model that was read."""
    if not model.has_rt_info(["rotanext"]):
        return {}
    entries = model.get_rt_info(["rotanext"])
    return {f"{PREFIX}{name}": text for name, text in getattr(entries, "value", entries).items() if isinstance(text, str)}
