"""What the tests of exported detectors share."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from onnx import TensorProto, helper

from rotanext.export.graph import DecodedNetwork
from rotanext.export.metadata import Metadata
from rotanext.export.runtime import RuntimeNetwork
from rotanext.inference.detector import Detector

CLASSES = ("plane", "ship")
Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def image(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 255, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def in_torch(detector: Detector, precision: str = "fp32", change: Change | None = None) -> Detector:
    """A detector as if it had been exported, whose engine is torch; `change` spoils its logits and boxes."""
    network = DecodedNetwork(detector.model, precision).eval()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            logits, boxes = network(torch.from_numpy(np.ascontiguousarray(images)))
        found = (logits.numpy().copy(), boxes.float().numpy().copy())
        return change(*found) if change else found

    metadata = Metadata(detector.class_names, detector.config, precision)
    cpu = torch.device("cpu")
    return Detector(RuntimeNetwork(Path("m.onnx"), run, metadata, cpu), detector.config, detector.class_names)


def small_graph(domain: str = "", **names: str) -> bytes:
    """An ONNX model that gives `logits` (the images as numbers) and `boxes` (those negated), without metadata."""
    called = {"images": "images", "logits": "logits", "boxes": "boxes"} | names
    nodes = [
        helper.make_node("Cast", [called["images"]], [called["logits"]], to=TensorProto.FLOAT),
        helper.make_node("Neg", [called["logits"]], [called["boxes"]], domain=domain),
    ]
    images = helper.make_tensor_value_info(called["images"], TensorProto.UINT8, ["b", "h", "w", 3])
    outputs = [helper.make_tensor_value_info(called[name], TensorProto.FLOAT, ["b", "h", "w", 3]) for name in ("logits", "boxes")]
    graph = helper.make_graph(nodes, "g", [images], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
