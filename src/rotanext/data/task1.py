"""The Task1 files of DOTA's test server: a file of detections for each class."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rotanext.data.dota import read_numbers, text_lines
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError, explain
from rotanext.objects import Fault
from rotanext.system.files import write_bytes

_TASK1_LINE = "`stem score x1 y1 x2 y2 x3 y3 x4 y4`"


class Task1Line(NamedTuple):
    """One detection of a Task1 file; corners are x1, y1, ... x4, y4 in pixels of the whole image."""

    stem: str
    score: float
    corners: tuple[float, ...]


def read_task1(directory: str | Path, problems: Problems) -> dict[str, list[Task1Line]]:
    """Read every `Task1_<class>.txt` of a folder: class name to detections in the order of the file.

    Broken lines go to `problems`; raises `UserError` where the folder is missing or holds no such file.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(explain(directory, "no such folder", "a folder of Task1_<class>.txt files", "Check it."))
    files = _task1_files(directory)
    if not files:
        raise UserError(explain(directory, "no Task1_<class>.txt file", "one for each class", "Check the folder."))
    result: dict[str, list[Task1Line]] = {}
    for path in files:
        lines = result[path.stem.removeprefix("Task1_")] = []
        for number, line in text_lines(path, problems):
            fields = line.rsplit(None, 9)  # from the right: an image's name may hold spaces
            values = read_numbers(fields[1:])
            if len(fields) < 10:
                advice = "Correct or remove the line."
                problems.add(path, f"{len(fields)} fields", f"the ten of {_TASK1_LINE}", advice, number)
            elif isinstance(values, Fault):
                problems.add(path, values.found, values.expected, values.advice, number)
            else:
                lines.append(Task1Line(fields[0], values[0], tuple(values[1:])))
    return result


def check_task1_target(directory: str | Path, class_names: Sequence[str]) -> None:
    """Raise `UserError` where `write_task1` would: known before the work of hours, not after it.

    A folder that holds files of other classes (they would end up in the zip), or a class that cannot be a file's name.
    """
    directory = Path(directory)
    for name in class_names:
        if "/" in name or "\\" in name:
            raise UserError(explain(directory, f"a class named {name!r}", "a name for a file", "Rename it."))
    stale = [path for path in _task1_files(directory) if path.stem.removeprefix("Task1_") not in class_names]
    if stale:
        raise UserError(explain(stale[0], "detections of another class", "none", "Choose an empty folder."))


def write_task1(directory: str | Path, detections_by_stem: Mapping[str, Detections], class_names: Sequence[str]) -> list[Path]:
    """Write one `Task1_<class>.txt` a class (empty where nothing was found) with full precision scores.

    Raises `UserError` where the folder or a class cannot be used; see `check_task1_target`.
    """
    directory = Path(directory)
    check_task1_target(directory, class_names)
    lines: dict[str, list[str]] = {name: [] for name in class_names}
    for stem in sorted(detections_by_stem):
        found = detections_by_stem[stem]
        for name, score, corners in zip(found.names, found.scores.tolist(), found.corners.tolist(), strict=True):
            numbers = " ".join(f"{value:.4f}" for point in corners for value in point)
            lines[name].append(f"{stem} {score!r} {numbers}\n")
    directory.mkdir(parents=True, exist_ok=True)
    for name in class_names:
        write_bytes(directory / f"Task1_{name}.txt", "".join(lines[name]).encode())
    return [directory / f"Task1_{name}.txt" for name in class_names]


def zip_task1(directory: str | Path) -> Path:
    """Pack a folder's Task1 files into its `Task1.zip` for the test server; the same files give the same bytes."""
    directory = Path(directory)
    files = _task1_files(directory)
    if not files:
        raise UserError(explain(directory, "no Task1_<class>.txt file", "one for each class", "Write them first."))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.name)  # dated 1980, so that no clock gets into the file
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    write_bytes(directory / "Task1.zip", packed.getvalue())
    return directory / "Task1.zip"


def _task1_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("Task1_*.txt"))
