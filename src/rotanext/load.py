"""From a checkpoint of any known layout, or an exported file, to a detector; and back to a file of our own."""

from pathlib import Path
from typing import cast

from rotanext.checkpoints.detectors import DetectorFile, PartsFile, filled_network, read_detector_file, read_weights
from rotanext.checkpoints.own import save_detector_file
from rotanext.data.dota import CLASS_LISTS, read_class_list
from rotanext.errors import Problems, UserError, counted, explain
from rotanext.export.metadata import SUFFIXES
from rotanext.heads.anchors import CONVENTIONS, Convention
from rotanext.inference.detector import Detector
from rotanext.system.devices import find_device


def _names(file: DetectorFile, path: Path, choice: str | None) -> tuple[str, ...]:
    """The class names: as asked, else the file's own, else the DOTA list of that length (said in the notes)."""
    if choice is not None:
        names = read_class_list(choice, Problems())
        if len(names) != file.num_classes:
            advice = "Give the class list the model was trained with."
            raise UserError(explain(path, f"{file.num_classes} classes", f"{len(names)}, as in '{choice}'", advice))
        return names
    if file.class_names is not None:
        return file.class_names
    for name, classes in CLASS_LISTS.items():
        if len(classes) == file.num_classes:
            file.notes.append(f"the file holds no class names; its {len(classes)} classes are taken to be those of {name}")
            return classes
    raise UserError(
        explain(path, f"{file.num_classes} classes without names", "names in its metadata", "Give them with --classes FILE.")
    )


def _build(
    file: DetectorFile, path: Path, device: str, classes: str | None, precision: str = "fp32", compiled: bool = False
) -> tuple[Detector, list[str]]:
    """The detector of a file that was read, and what there is to say of it."""
    names, where = _names(file, path, classes), find_device(device)
    network, report = filled_network(file.config, len(names), file.weights, path, file.layout)
    return Detector(network.to(where), file.config, names, precision=precision, compiled=compiled), [report.text(), *file.notes]


def checked_anchors(choice: str | None) -> Convention | None:
    """The anchor convention of that name; raises UserError for another name."""
    if choice not in (None, *CONVENTIONS):
        raise UserError(f"--anchors is '{choice}'; expected {' or '.join(CONVENTIONS)}")
    return cast(Convention | None, choice)


def read_detector(
    path: str | Path,
    *,
    device: str = "auto",
    anchors: str | None = None,
    classes: str | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> tuple[Detector, list[str]]:
    """A detector, and lines on what its file said; see `load_detector`."""
    path, chosen = Path(path), checked_anchors(anchors)
    if path.suffix.lower() in SUFFIXES:
        return _read_exported(path, device, chosen, classes, precision, compiled)
    return _build(read_detector_file(path, chosen), path, device, classes, precision, compiled)


def _read_exported(
    path: Path, device: str, anchors: Convention | None, classes: str | None, precision: str, compiled: bool
) -> tuple[Detector, list[str]]:
    """The same of a file that `rotanext export` wrote; its priors are within its graph."""
    from rotanext.export.runtime import open_exported

    if not path.is_file():
        raise UserError(explain(path, "nothing there", "a file written by rotanext export", "Check the path."))
    if anchors is not None:
        raise UserError(explain(path, "an exported file", "a checkpoint where anchors are given", "Leave out --anchors."))
    names = None if classes is None else read_class_list(classes, Problems())
    detector, metadata = open_exported(path, device=device, class_names=names, precision=precision, compiled=compiled)
    note = f"exported by rotanext {metadata.version}: {metadata.precision}, {counted(len(metadata.class_names), 'class')}"
    return detector, [note]


def read_any(path: Path, anchors: str | None, classes: str | None) -> tuple[Detector, list[str]] | PartsFile:
    """A detector on the CPU with what its file said, or the weights of a backbone's file; read once, loaded strictly."""
    file = read_weights(path, checked_anchors(anchors))
    return file if isinstance(file, PartsFile) else _build(file, path, "cpu", classes)


def load_detector(
    path: str | Path,
    device: str = "auto",
    *,
    anchors: str | None = None,
    classes: str | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> Detector:
    """Load a detector: our own file, a checkpoint of MMRotate 0.x or 1.x, or what `rotanext export` wrote (.onnx, .xml, .pt2).

    Nothing in the file is executed; graphs of exported files are computed by ONNX Runtime or OpenVINO.

    anchors ("v0" or "v1") and classes (a DOTA list or a text file of names) replace what the file's metadata says or lacks;
    precision (fp32, bf16 or fp16) and compiled (torch.compile) say how it computes. Raises UserError for a damaged file, another
    architecture, missing or unexpected keys, or a device that does not exist.
    """
    return read_detector(path, device=device, anchors=anchors, classes=classes, precision=precision, compiled=compiled)[0]


def save_detector(detector: Detector, path: str | Path) -> None:
    """Write a detector in our own format."""
    save_detector_file(path, detector.model.state_dict(), detector.config, detector.class_names)
