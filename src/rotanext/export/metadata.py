"""What an exported file says of itself, as names and texts: every format can hold those."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.config import Config, saved_values, validate_saved
from rotanext.errors import UserError, explain, shortened
from rotanext.models.network import GREY, MEAN, STD

FORMAT = "2"
SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}  # of the kinds of files that are written
INPUT, INPUT_1 = "images", "pictures"  # the graph's input; of format 1, whose networks also had other names of their parts
PREFIX = "rotanext."
PRECISIONS = ("fp32", "fp16", "int8")
_FILLED = {"mean": "zeros after it", "grey": f"{GREY:g} before it"}  # what the graph puts around images, by data.padding
_INPUT = "images: uint8 [B, H, W, 3], RGB, 0 to 255, any B, H and W"
_OUTPUT = (
    "logits: float32 [B, P, C], whose sigmoid is the score; boxes: float32 [B, P, 5] in pixels, see box_convention; "
    "P priors level by level, finest first; then a score threshold, top-k per level and rotated NMS per class"
)
_LONGEST = 1_000_000  # characters


@dataclass(frozen=True)
class Metadata:
    """Class names, the whole configuration, and what the file computes in."""

    class_names: tuple[str, ...]
    config: Config
    precision: str
    version: str = ""
    format: str = FORMAT

    @property
    def input(self) -> str:
        """The name of the graph's input."""
        return INPUT_1 if self.format == "1" else INPUT

    def to_texts(self) -> dict[str, str]:
        """Names and texts for a file."""
        where = f"in the graph: (RGB - mean) / std, filled up to a multiple of 32 with {_FILLED[self.config.data.padding]}"
        return {
            f"{PREFIX}format": FORMAT,
            f"{PREFIX}version": __version__,
            f"{PREFIX}class_names": json.dumps(list(self.class_names)),
            f"{PREFIX}box_convention": CONVENTION,
            f"{PREFIX}normalisation": json.dumps({"mean": MEAN, "std": STD, "where": where}),
            f"{PREFIX}input": _INPUT,
            f"{PREFIX}output": _OUTPUT,
            f"{PREFIX}precision": self.precision,
            f"{PREFIX}config": json.dumps(saved_values(self.config)),
        }


def read_metadata(texts: Mapping[str, str], path: Path) -> Metadata:
    """Metadata from a file's texts; raises UserError where they are missing, wrong, or of another convention."""
    names = ("format", "class_names", "box_convention", "precision", "config")
    missing = [name for name in names if f"{PREFIX}{name}" not in texts]
    if missing:
        found = f"no {', '.join(PREFIX + name for name in missing)} in its metadata"
        raise UserError(explain(path, found, "a file written by rotanext export", "Export the checkpoint again."))
    values = {name: texts[f"{PREFIX}{name}"] for name in names}
    if values["format"] != "1":
        _expect(path, "format", values["format"], FORMAT)
    _expect(path, "box_convention", values["box_convention"], CONVENTION)
    if values["precision"] not in PRECISIONS:
        _expect(path, "precision", values["precision"], " or ".join(PRECISIONS))
    classes, config = _json(path, "class_names", values["class_names"]), _json(path, "config", values["config"])
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) and name for name in classes):
        _expect(path, "class_names", values["class_names"], "a list of names")
    if not isinstance(config, dict):
        _expect(path, "config", values["config"], "a configuration")
    checked = validate_saved(config, f"{path} (configuration)")
    return Metadata(tuple(classes), checked, values["precision"], texts.get(f"{PREFIX}version", ""), values["format"])


def _expect(path: Path, name: str, found: str, expected: str) -> None:
    if found != expected:
        advice = "The file is damaged, or of another version of rotanext; export the checkpoint again."
        raise UserError(explain(path, f"{name} = {shortened(found)!r}", f"{expected!r}", advice))


def _json(path: Path, name: str, text: str) -> Any:
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"{len(text)} characters")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        found = f"{name} that cannot be read ({shortened(str(error))})"
        raise UserError(explain(path, found, "JSON", "The file is damaged; export the checkpoint again.")) from None
