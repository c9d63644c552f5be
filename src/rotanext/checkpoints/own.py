"""Our own files of detectors: safetensors with everything needed to rebuild the detector as JSON in the header.

They have no way to hold code at all. The number of their format is the configuration's; format 1 (rotanext 0.1.0) had the
anchors beside the configuration, and other names for neck and stacked convolutions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rotanext import __version__
from rotanext.boxes import CONVENTION
from rotanext.config import Config, saved_values
from rotanext.config.formats import FORMAT, READ
from rotanext.errors import UserError, explain, shortened
from rotanext.system.files import MAKE_ROOM, write_atomically


def read_header(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The checked header of a file in our own format: configuration and class names; UserError for any other."""
    expected = f"a rotanext detector of format 1 to {FORMAT}, boxes {CONVENTION.split(':')[0]}"
    try:
        content = json.loads(header["rotanext"])
        found = f"format {content['format']}, boxes '{content['box_convention']}'"
        valid = content["format"] in READ and content["box_convention"] == CONVENTION and isinstance(content["config"], dict)
        names = content["class_names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            found, valid = f"class_names {shortened(repr(names))}", False
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        found, valid = f"no readable header ({type(error).__name__}: {error})", False
    if not valid:
        raise UserError(explain(path, found, expected, "Use the version of rotanext that wrote it, or save it again."))
    return content


def save_detector_file(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    config: Config,
    class_names: Sequence[str],
    advice: str = MAKE_ROOM,
) -> None:
    """Write our own format: safetensors with everything needed to rebuild the detector in its header.

    A failure, such as a full disk, raises UserError with `advice` and leaves the previous file as it was.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "kind": "detector",
        "version": __version__,
        "config": saved_values(config),
        "class_names": list(class_names),
        "box_convention": CONVENTION,
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}

    def write(part: Path) -> None:
        try:
            save_file(tensors, part, metadata={"rotanext": json.dumps(header)})
        except SafetensorError as error:  # also what it makes of a full disk
            raise OSError(str(error)) from None

    write_atomically(path, write, durable=True, advice=advice)
