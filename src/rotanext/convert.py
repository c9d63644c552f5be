"""`rotanext convert`: a checkpoint of any known layout becomes a file in our own format."""

from pathlib import Path

from safetensors.torch import save_file

from rotanext.checkpoints.detectors import PartsFile
from rotanext.errors import UserError, counted
from rotanext.load import read_any, save_detector
from rotanext.system.files import write_atomically


def convert_checkpoint(source: Path, target: Path, anchors: str | None = None, classes: str | None = None) -> list[str]:
    """Convert a detector, or a backbone's weights, to `target`; returns what was done, a line each.

    The source is read once; a detector is loaded strictly first, so what is written is known to be complete. Raises UserError for
    anything else.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the target's name must end in .safetensors")
    found = read_any(source, anchors, classes)
    if not isinstance(found, PartsFile):
        detector, notes = found
        save_detector(detector, target)
        return [*notes, f"{target}: a detector of {counted(len(detector.class_names), 'class')}"]
    tensors = {key: value.clone().contiguous() for key, value in found.weights.items()}
    # A copy of each, because safetensors refuses tensors that share their memory.
    write_atomically(target, lambda path: save_file(tensors, path), durable=True)
    use = f"a network to start a training with; use it as train.start={target}" if found.whole else ""
    return [
        f"{found.layout} layout: {counted(len(tensors), 'tensor')}",
        *found.notes,
        f"{target}: {use or f'backbone weights; use them as backbone.weights={target}'}",
    ]
