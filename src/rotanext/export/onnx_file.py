"""ONNX files: written by torch's dynamo exporter, quantised by ONNX Runtime, checked by our own reader, run by ONNX Runtime."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from rotanext.errors import UserError, explain, shortened
from rotanext.export.graph import EXAMPLE, OUTPUTS, quiet
from rotanext.export.metadata import INPUT, Metadata, read_metadata
from rotanext.export.protobuf import CHECKSUM, Inspection, inspect, text_entry

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # uint8 [B, H, W, 3] to logits [B, A, C] and boxes [B, A, 5]
_LARGEST = (2 << 30) - (1 << 20)  # bytes of a protobuf message
_DAMAGED = "The file is damaged or was changed; export the checkpoint again."


def need(extra: str, *modules: str) -> None:
    """Raise UserError, naming the extra that brings them, where modules are not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed, which this needs: pip install 'rotanext[{extra}]'")


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a traced network as ONNX, weights included, without metadata; raises UserError where it is too large for the format."""
    need("export", "onnx", "onnxscript")
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > _LARGEST:
        raise UserError(explain(path, f"{size >> 20} MB of weights", "at most 2 GB in an ONNX file", "Use --precision fp16."))
    with quiet(), torch.no_grad():
        exported = torch.onnx.export(
            program,
            (torch.zeros(EXAMPLE, dtype=torch.uint8),),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert exported is not None
    model: Any = exported.model_proto
    for note in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        note.ClearField("metadata_props")  # names and lines of our source
        if hasattr(note, "doc_string"):
            note.ClearField("doc_string")
    model.ClearField("metadata_props")
    path.write_bytes(model.SerializeToString())


def quantise(source: Path, target: Path, tiles: list[np.ndarray]) -> None:
    """Write the int8 form of an ONNX file, by post-training quantisation with the ranges seen on tiles uint8 `[H, W, 3]`.

    Convolutions and matrix products are quantised, weights a channel at a time; normalisation and decoding are not.
    """
    need("export", "onnx", "onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Tiles(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(tiles)

        def get_next(self) -> dict[str, np.ndarray] | None:
            tile = next(self.left, None)
            return None if tile is None else {INPUT: tile[None]}

    with quiet():
        quantize_static(
            source,
            target,
            Tiles(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )


def seal(path: Path, metadata: Metadata) -> None:
    """Add metadata and checksum to an ONNX file; raises UserError where it has operators that are not of the standard."""
    content = path.read_bytes()
    content += b"".join(text_entry(name, text) for name, text in metadata.to_texts().items())
    found = inspect(content)
    _refuse_foreign(found, path)
    path.write_bytes(content + text_entry(CHECKSUM, found.digest))


def _refuse_foreign(found: Inspection, path: Path) -> None:
    if found.foreign:
        operators = f"operators of no standard: {shortened(', '.join(found.foreign))}"
        raise UserError(explain(path, operators, "operators of the ONNX standard alone", "rotanext export writes no others."))
    if found.external:
        raise UserError(explain(path, "weights in another file", "all in one file", "rotanext export writes one file."))


def check_onnx(path: Path) -> tuple[bytes, Metadata]:
    """The bytes and metadata of an ONNX file that is as it was written; raises UserError for any other."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"that it cannot be read ({error.strerror or error})"
        raise UserError(explain(path, reason, "an exported file", "Check the path.")) from None
    try:
        found = inspect(content)
    except ValueError as error:  # also texts that are none
        raise UserError(explain(path, f"no ONNX model ({shortened(str(error))})", "an exported file", _DAMAGED)) from None
    metadata = read_metadata(found.texts, path)
    if found.texts.get(CHECKSUM) != found.digest:
        raise UserError(explain(path, "a checksum that is not the one in it", "the file as it was exported", _DAMAGED))
    _refuse_foreign(found, path)
    return content, metadata


def open_onnx(path: Path, device: torch.device | None) -> tuple[Run, Metadata, torch.device]:
    """A function that computes an exported ONNX file, what it says of itself, and where it computes (None: the best there is)."""
    content, metadata = check_onnx(path)
    need("onnx", "onnxruntime")
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device is not None and device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{device}' cannot be used by ONNX Runtime here; use cpu or cuda.")
    if device is not None and device.type == "cuda" and not has_cuda:
        raise UserError(f"device '{device}' cannot be used: this ONNX Runtime has no CUDA. Install onnxruntime-gpu, or use cpu.")
    providers: list[Any] = ["CPUExecutionProvider"]
    if has_cuda and (device is None or device.type == "cuda"):
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": (device.index or 0) if device is not None else 0}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
        inputs, outputs = [x.name for x in session.get_inputs()], [x.name for x in session.get_outputs()]
    except Exception as error:  # ONNX Runtime's are of many kinds, without a common one
        raise UserError(_unusable(path, "ONNX Runtime", error)) from None
    if inputs != [metadata.input] or outputs != list(OUTPUTS):
        found = f"inputs {shortened(str(inputs))} and outputs {shortened(str(outputs))}"
        raise UserError(explain(path, found, f"{[metadata.input]} and {list(OUTPUTS)}", _DAMAGED))

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            logits, boxes = session.run(list(OUTPUTS), {metadata.input: images})
        except Exception as error:
            raise UserError(_unusable(path, "ONNX Runtime", error)) from None
        return logits, boxes

    return run, metadata, torch.device("cuda" if session.get_providers()[0].startswith("CUDA") else "cpu")


def _unusable(path: Path, engine: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return explain(path, f"a graph that {engine} cannot compute ({shortened(reason)})", "one that rotanext export wrote", _DAMAGED)
