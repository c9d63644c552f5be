"""`rotanext convert`: a checkpoint of any known layout becomes a file in our own format."""

from pathlib import Path

from safetensors.torch import save_file

from rotanext.checkpoints.layouts import detect_layout, find_state_dict, map_keys
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.errors import UserError, counted
from rotanext.load import checked_anchors, read_detector, save_detector
from rotanext.system.files import write_atomically


def convert_checkpoint(source: Path, target: Path, anchors: str | None, classes: str | None) -> list[str]:
    """Convert a detector, or a backbone's weights, to `target`; returns what was done, a line each.

    A detector is loaded strictly first, so what is written is known to be complete. Raises UserError for anything else.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the target's name must end in .safetensors")
    checked_anchors(anchors)
    weights = find_state_dict(read_tensors(source), source)
    layout = detect_layout(weights, source)
    if layout in ("mmrotate", "rotanext detector"):
        detector, file = read_detector(source, device="cpu", anchors=anchors, classes=classes)
        save_detector(detector, target)
        return [*file.notes, f"{target}: a detector of {counted(len(detector.class_names), 'class')}"]
    tensors = {key: value.clone().contiguous() for key, value in map_keys(layout, weights).items()}
    # A copy of each, because safetensors refuses tensors that share their memory.
    write_atomically(target, lambda path: save_file(tensors, path))
    return [
        f"{layout} layout: {len(tensors)} tensors",
        f"{target}: backbone weights; use them as model.weights={target}",
    ]
