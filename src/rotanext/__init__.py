"""Oriented object detection with ConvNeXt backbones.

    from rotanext import load_detector
    detections = load_detector("best.safetensors")(image)

The names below are imported on first use, so that a process which only reads labels or cuts tiles never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rotanext.detections import Detections
    from rotanext.inference.detector import Detector
    from rotanext.load import load_detector, save_detector

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "load_detector", "save_detector"]

_HOMES = {
    "Detections": "rotanext.detections",
    "Detector": "rotanext.inference.detector",
    "load_detector": "rotanext.load",
    "save_detector": "rotanext.load",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rotanext' has no attribute '{name}'")
