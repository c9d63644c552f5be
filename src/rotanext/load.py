"""From a checkpoint of any known layout to a detector."""

from pathlib import Path
from typing import cast, get_args

import torch

from rotanext.checkpoints.detector_files import Anchors, DetectorFile, read_detector_file, save_detector_file
from rotanext.checkpoints.layouts import check_strict, load_strict
from rotanext.config import Config, load_config, of_any_version, validate
from rotanext.data.dota import CLASS_LISTS, find_class_names
from rotanext.errors import Problems, UserError, counted, explain
from rotanext.inference.detector import Detector, build_model
from rotanext.system.devices import find_device

EXPORTED = (".onnx", ".xml", ".pt2")  # what `rotanext export` writes
PUBLISHED = {
    True: "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota",
    False: "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota",
}


def _names(file: DetectorFile, path: Path, choice: str | None) -> tuple[str, ...]:
    """The class names: as asked, else the file's own, else the DOTA list of that length (said in the notes)."""
    if choice is not None:
        if choice == "auto":
            raise UserError(
                f"--classes auto reads labels, and there are none here; expected {', '.join(CLASS_LISTS)} or a text file"
            )
        names = find_class_names([], choice, Problems())
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


def _config(file: DetectorFile, path: Path, classes: str | None) -> Config:
    """The file's own configuration, or for a third party's file the published recipe its weights belong to."""
    if file.config is not None:
        origin = f"{path} (configuration)"
        values = validate(of_any_version(file.config), origin).model_dump()
        values["model"]["anchors"] = file.anchors
        return validate(values, origin)
    recipe = load_config(PUBLISHED[file.backbone.startswith("convnext")]).model_dump()
    shape = {"fpn_channels": file.fpn_channels, "stacked_convs": file.stacked_convs}
    recipe["model"] |= {"backbone": file.backbone, "weights": "", "anchors": file.anchors, **shape}
    recipe["data"] |= {"classes": classes or "auto"}
    return validate(recipe, str(path))


def _check_architecture(config: Config, file: DetectorFile, path: Path, num_classes: int) -> None:
    """Raise UserError where the configuration describes another network than the weights, before one of any size is built."""
    stated = (config.model.fpn_channels, config.model.stacked_convs)
    if stated != (file.fpn_channels, file.stacked_convs):
        found = "a configuration of {} FPN channels and {} head layers".format(*stated)
        advice = "Its configuration and weights come from different runs; it cannot be used as it is."
        raise UserError(explain(path, found, f"{file.fpn_channels} and {file.stacked_convs}, as its weights have", advice))
    with torch.device("meta"):  # shapes alone, without memory
        check_strict(build_model(config, num_classes), file.state_dict, path, file.layout)


def checked_anchors(choice: str | None) -> Anchors | None:
    """The anchor convention of that name; raises UserError for another name."""
    if choice not in (None, *get_args(Anchors)):
        raise UserError(f"--anchors is '{choice}'; expected {' or '.join(get_args(Anchors))}")
    return cast(Anchors | None, choice)


def read_detector(
    path: str | Path,
    *,
    device: str = "auto",
    anchors: str | None = None,
    classes: str | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> tuple[Detector, DetectorFile]:
    """A detector and what its file said; see `load_detector`."""
    path, chosen = Path(path), checked_anchors(anchors)
    if path.suffix.lower() in EXPORTED:
        return _read_exported(path, device, chosen, classes, precision, compiled)
    file = read_detector_file(path, chosen)
    names = _names(file, path, classes)
    config = _config(file, path, classes)
    where = find_device(device)
    _check_architecture(config, file, path, len(names))
    model = build_model(config, len(names))
    report = load_strict(model, file.state_dict, path, file.layout)
    file.notes = [report.text(), *file.notes]
    return Detector(model.to(where), config, names, precision=precision, compiled=compiled), file


def _read_exported(
    path: Path, device: str, anchors: Anchors | None, classes: str | None, precision: str, compiled: bool
) -> tuple[Detector, DetectorFile]:
    """The same of a file that `rotanext export` wrote; its anchors are within its graph."""
    from rotanext.export.runtime import open_exported

    if not path.is_file():
        raise UserError(explain(path, "nothing there", "a file written by rotanext export", "Check the path."))
    if anchors is not None:
        raise UserError(explain(path, "an exported file", "a checkpoint where anchors are given", "Leave --anchors away."))
    names = find_class_names([], classes, Problems()) if classes not in (None, "auto") else None
    detector, metadata = open_exported(path, device=device, class_names=names, precision=precision, compiled=compiled)
    model = metadata.config.model
    file = DetectorFile(
        layout="exported",
        state_dict={},
        backbone=model.backbone,
        num_classes=len(detector.class_names),
        fpn_channels=model.fpn_channels,
        stacked_convs=model.stacked_convs,
        anchors=model.anchors,
        class_names=metadata.class_names,
        notes=[f"exported by rotanext {metadata.version}: {metadata.precision}, {counted(len(metadata.class_names), 'class')}"],
    )
    return detector, file


def load_detector(
    path: str | Path,
    device: str = "auto",
    *,
    anchors: Anchors | None = None,
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
    config = detector.config.model_dump(mode="json")
    weights = detector.model.state_dict()
    save_detector_file(path, weights, config, detector.class_names, detector.config.model.anchors)
