"""What to say where a folder is not the data set it was taken for: the way out, for the mistakes that people make."""

import difflib
import shlex
from pathlib import Path

_SETTINGS = ("data.yaml", "dataset.yaml", "data.yml")
_LOOKED_AT = 1000  # label files; the first may be empty, of images without objects


def folder_advice(root: Path) -> str:
    """One sentence or two: what `root` probably is, and what to give or do instead."""
    try:
        return _advice(root)
    except OSError:  # a folder that may not be looked into
        return "Check the path."


def _advice(root: Path) -> str:
    if not root.exists():
        beside = [entry.name for entry in sorted(root.parent.iterdir()) if entry.is_dir()] if root.parent.is_dir() else []
        near = difflib.get_close_matches(root.name, beside, 1)
        return f"Did you mean {root.parent / near[0]}?" if near else "Check the path."
    if not root.is_dir():
        return "This is a file. A data set is a folder with images/ and labelTxt/."
    if root.name in ("images", "labelTxt") and (root.parent / "images").is_dir():
        return f"Give the folder above: {root.parent}."
    if (yolo := _yolo_root(root)) is not None:
        given = shlex.quote(str(yolo))
        return f"This looks like YOLO labels. Convert them: rotanext labels convert {given} NEW_FOLDER --from yolo-obb --to dota"
    parts = [entry for entry in sorted(root.iterdir()) if (entry / "labelTxt").is_dir()]
    if parts:
        return f"Did you mean {' or '.join(str(part) for part in parts[:3])}?"
    folders = [entry.name for entry in sorted(root.iterdir()) if entry.is_dir()]
    for wanted in ("labelTxt", "images"):
        near = [name for name in folders if name.lower().startswith(wanted[:5].lower())]
        if near and wanted not in folders:
            return f"Rename {near[0]} to {wanted}?"
    return "A data set is a folder with images/ and labelTxt/."


def looks_like_yolo(root: Path) -> bool:
    """Whether a folder holds what YOLO's tools write: a data.yaml, or labels/ with text files or subsets' folders in it."""
    return _yolo_root(root) is not None


def _yolo_root(root: Path) -> Path | None:
    """The folder to convert: the one with the data.yaml, which may lie above a subset's folder."""
    if (root / "labelTxt").is_dir():
        return None
    if any((root / name).is_file() for name in _SETTINGS):
        return root
    labels = root / "labels"
    subsets = any((labels / name).is_dir() for name in ("train", "val", "valid", "test"))
    inner = (root / name / "labels" for name in ("train", "val", "valid"))
    if subsets or (labels.is_dir() and _has_fractions(labels)) or any(one.is_dir() and _has_fractions(one) for one in inner):
        return root.parent if any((root.parent / name).is_file() for name in _SETTINGS) else root
    return None


def _has_fractions(labels: Path) -> bool:
    """Whether the first label file with a line begins with a class's number and fractions, as YOLO's do and DOTA's do not."""
    for path in sorted(labels.glob("*.txt"))[:_LOOKED_AT]:
        try:
            with path.open("rb") as file:
                fields = file.read(200).split(b"\n")[0].split()
            if fields and path.name != "classes.txt":
                return len(fields) >= 5 and fields[0].isdigit() and all(abs(float(field)) <= 2 for field in fields[1:9])
        except (OSError, ValueError):
            return False
    return False
