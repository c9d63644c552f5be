"""What to say where a folder is not the data set it was taken for: the way out, for the mistakes that people make."""

import difflib
from pathlib import Path


def folder_advice(root: Path) -> str:
    """One sentence or two: what `root` probably is, and what to give or do instead."""
    try:
        return _advice(root)
    except OSError:  # a folder that may not be looked into
        return "Check the path."


def _advice(root: Path) -> str:
    if not root.is_dir():
        beside = [entry.name for entry in sorted(root.parent.iterdir()) if entry.is_dir()] if root.parent.is_dir() else []
        near = difflib.get_close_matches(root.name, beside, 1)
        return f"Did you mean {root.parent / near[0]}?" if near else "Check the path."
    if root.name in ("images", "labelTxt") and (root.parent / "images").is_dir():
        return f"Give the folder above: {root.parent}."
    if looks_like_yolo(root):
        return f"This looks like YOLO labels. Convert them: rotanext labels convert {root} NEW_FOLDER --from yolo-obb --to dota"
    parts = [entry for entry in sorted(root.iterdir()) if (entry / "labelTxt").is_dir()]
    if parts:
        return f"Did you mean {' or '.join(str(part) for part in parts[:3])}?"
    near = [entry.name for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name.lower().startswith(("label", "image"))]
    wrong = [name for name in near if name not in ("images", "labelTxt")]
    if wrong:
        return f"Rename {wrong[0]} to {'labelTxt' if wrong[0].lower().startswith('label') else 'images'}?"
    return "A data set is a folder with images/ and labelTxt/."


def looks_like_yolo(root: Path) -> bool:
    """Whether a folder holds what YOLO's tools write: a data.yaml, or labels/ with text files or subsets' folders in it."""
    if any((root / name).is_file() for name in ("data.yaml", "dataset.yaml", "data.yml")):
        return True
    labels = root / "labels"
    subsets = (labels / name for name in ("train", "val", "valid", "test"))
    return labels.is_dir() and not (root / "labelTxt").is_dir() and (any(s.is_dir() for s in subsets) or _has_fractions(labels))


def _has_fractions(labels: Path) -> bool:
    """Whether the first label file begins with a class's number and fractions, as YOLO's do and DOTA's do not."""
    first = min(labels.glob("*.txt"), default=None)
    if first is None:
        return False
    try:
        with first.open("rb") as file:
            fields = file.read(200).split(b"\n")[0].split()
        return len(fields) >= 5 and fields[0].isdigit() and all(abs(float(field)) <= 2 for field in fields[1:9])
    except (OSError, ValueError):
        return False
