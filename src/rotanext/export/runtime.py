"""Detectors from exported files: ONNX Runtime, OpenVINO, or our own network with a .pt2 file's weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rotanext.errors import UserError, explain
from rotanext.export.metadata import SUFFIXES, Metadata
from rotanext.export.onnx_file import Run, open_onnx
from rotanext.export.openvino_file import open_openvino
from rotanext.inference.detector import Detector
from rotanext.system.devices import find_device

_OPENERS: dict[str, Callable[[Path, torch.device | None], tuple[Run, Metadata, torch.device]]] = {
    "onnx": open_onnx,
    "openvino": open_openvino,
}


class RuntimeNetwork:
    """An exported graph as a `detector.ExportedNetwork`."""

    def __init__(self, path: Path, run: Run, metadata: Metadata, device: torch.device) -> None:
        self.path, self.run, self.metadata = path, run, metadata
        self.num_classes = len(metadata.class_names)
        self.device = torch.device("cpu")  # where its results are
        self.computes_on = device

    def __call__(self, images: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """See `detector.ExportedNetwork`; UserError where the graph gives anything else."""
        logits, boxes = self.run(images)
        config = self.metadata.config
        counts = [rows * columns * config.head.priors for rows, columns in config.neck.level_sizes(*images.shape[1:3])]
        expected = [(len(images), sum(counts), self.num_classes), (len(images), sum(counts), 5)]
        found = [(values.shape, values.dtype) for values in (logits, boxes)]
        if found != [(shape, np.dtype(np.float32)) for shape in expected]:
            advice = "Its graph is not that of its metadata; export the checkpoint again."
            raise UserError(explain(self.path, f"outputs {found}", f"float32 {expected}", advice))
        return list(torch.from_numpy(logits).split(counts, 1)), torch.from_numpy(boxes)


def open_exported(
    path: Path, *, device: str = "auto", class_names: tuple[str, ...] | None = None, precision: str = "fp32", compiled: bool = False
) -> tuple[Detector, Metadata]:
    """A detector from a file of `SUFFIXES`, and what the file says of itself; `class_names` replace its own.

    Precision and compiling are for .pt2 files alone: the others were exported in a precision. UserError for a damaged file, a
    runtime that is not installed, or a device it cannot use.
    """
    kind = SUFFIXES[path.suffix.lower()]
    if kind == "torch":
        from rotanext.export.torch_file import open_program

        return open_program(path, find_device(device), class_names, precision=precision, compiled=compiled)
    if compiled or precision != "fp32":
        advice = "Leave out --precision and --compile; choose the precision when exporting."
        raise UserError(explain(path, "an exported file", "a checkpoint where a precision is asked for", advice))
    where = None if device == "auto" else torch.device(device) if device == "cuda" else find_device(device)
    run, metadata, computes_on = _OPENERS[kind](path, where)
    names = class_names or metadata.class_names
    if len(names) != len(metadata.class_names):
        found = f"{len(metadata.class_names)} classes"
        raise UserError(explain(path, found, f"{len(names)}, as given", "Give the class list the model was trained with."))
    network = RuntimeNetwork(path, run, metadata, computes_on)
    return Detector(network, metadata.config, names), metadata
