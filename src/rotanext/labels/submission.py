"""`rotanext labels check-submission`: the zip of Task1 files that DOTA's test server takes."""

import math
import stat
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rotanext.data.dota import CLASS_LISTS
from rotanext.data.tiles import scene_of_tile
from rotanext.errors import UserError, counted, explain
from rotanext.images.reading import IMAGE_SUFFIXES
from rotanext.objects import LEAST_AREA
from rotanext.polygons import signed_area

_LARGEST = 1 << 30  # bytes of all files, unpacked
_KEEP = 20  # messages of one kind
_FAR = 1e5


@dataclass
class Submission:
    """What a zip holds and what is wrong with it: detections of each class, problems, notices."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    images: int = 0

    def text(self) -> str:
        """Lines for the terminal: counts, problems, notices."""
        total = sum(self.counts.values())
        held = f"{counted(total, 'detection')} of {counted(len(self.counts), 'class')} in {counted(self.images, 'image')}"
        lines = [f"  problem: {text}" for text in self.problems] + [f"  notice: {text}" for text in self.notices]
        return "\n".join([f"{held}: {counted(len(self.problems), 'problem')}", *lines])

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {"detections": self.counts, "images": self.images, "problems": self.problems, "notices": self.notices}


def check_submission(path: Path, images: Path | None = None, version: str | None = None) -> Submission:
    """Read a zip of Task1_<class>.txt; images: the folder of the test set's images, whose names the detections must have.

    version: dota1.0, dota1.5 or dota2.0; the one whose classes fit best without. Raises `UserError` for what is no zip.
    """
    if version is not None and version not in CLASS_LISTS:
        raise UserError(f"--version is '{version}'; expected {', '.join(CLASS_LISTS)}")
    result, stems = Submission(), _stems(images)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if sum(entry.file_size for entry in entries) > _LARGEST or len(entries) > 1000:
                raise UserError(explain(path, "more than 1 GB or 1000 files", "one file a class", "Check the zip."))
            names = _check_names(entries, result, version)
            found: set[str] = set()
            for name, entry in names.items():
                found |= _check_file(name, archive.read(entry), result, stems)
    except UserError:
        raise
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(explain(path, f"what cannot be read as a zip ({reason})", "a zip file", "Write it again.")) from None
    except Exception as error:  # zlib.error and its like, which have no common base
        raise UserError(explain(path, f"a damaged zip ({error})", "a whole one", "Write it again.")) from None
    result.images = len(found)
    if stems is not None and len(stems - found):
        some = ", ".join(sorted(stems - found)[:5])
        result.notices.append(f"{counted(len(stems - found), 'image')} without any detection: {some} ...")
    if not sum(result.counts.values()):
        result.problems.append("no detection in any file")
    return result


def _stems(images: Path | None) -> set[str] | None:
    if images is None:
        return None
    if not images.is_dir():
        raise UserError(explain(images, "no such folder", "the images of the test set", "Check --images."))
    found = {path.stem for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    if not found:
        raise UserError(explain(images, "no images", f"files ending in {' '.join(IMAGE_SUFFIXES)}", "Check --images."))
    return found


def _check_names(entries: list[zipfile.ZipInfo], result: Submission, version: str | None) -> dict[str, zipfile.ZipInfo]:
    """The entry of each class; all that is wrong with the names goes to the result."""
    found: dict[str, zipfile.ZipInfo] = {}
    unread: set[str] = set()  # encrypted, a link or in a folder: there, and already complained of
    for entry in entries:
        name = entry.filename
        if "/" in name or "\\" in name:
            result.problems.append(f"{name[:80]}: in a folder; expected Task1_<class>.txt at the top of the zip")
            unread.add(_class_of(name.replace("\\", "/").rpartition("/")[2]))
        elif entry.flag_bits & 1 or stat.S_ISLNK(entry.external_attr >> 16):
            result.problems.append(f"{name[:80]}: encrypted or a link; expected a plain file")
            unread.add(_class_of(name))
        elif not (kind := _class_of(name)):
            result.problems.append(f"{name[:80]}: expected only files named Task1_<class>.txt")
        elif kind in found:
            result.problems.append(f"{name[:80]}: twice in the zip")
        else:
            found[kind] = entry
    if version is None:
        version = max(CLASS_LISTS, key=lambda key: (len((found.keys() | unread) & set(CLASS_LISTS[key])), -len(CLASS_LISTS[key])))
        result.notices.append(f"taken for {version}, whose classes fit best")
    wanted = CLASS_LISTS[version]
    result.problems += [f"Task1_{name[:60]}.txt: no class of {version}" for name in sorted(found.keys() - set(wanted))]
    result.problems += [
        f"Task1_{name}.txt is missing; the server wants a file for each class" for name in wanted if name not in {*found, *unread}
    ]
    return {name: found[name] for name in wanted if name in found}


def _class_of(name: str) -> str:
    """The class in Task1_<class>.txt; nothing of another name."""
    return name[6:-4] if name.startswith("Task1_") and name.endswith(".txt") else ""


def _check_file(name: str, data: bytes, result: Submission, stems: set[str] | None) -> set[str]:
    """Check one class's lines; returns the images that it names."""
    faults: Counter[str] = Counter()
    seen: set[bytes] = set()
    found: set[str] = set()
    count = 0

    def fault(line: int, kind: str, detail: str) -> None:
        faults[kind] += 1
        if faults[kind] <= _KEEP:
            result.problems.append(f"Task1_{name}.txt:{line}: {kind}{detail}")

    for line, raw in enumerate(data.splitlines(), 1):
        if not raw.strip():
            continue
        count += 1
        fields = raw.decode("utf-8", "replace").split()
        if len(fields) != 10:
            fault(line, f"found {len(fields)} fields; expected image, score and eight coordinates", "")
            continue
        wrong = _wrong_numbers(fields[1:])
        if wrong:
            fault(line, *wrong)
        if stems is not None and fields[0] not in stems:
            tile = "a tile, not a whole image: merge the tiles first" if scene_of_tile(fields[0]) != fields[0] else "no such image"
            fault(line, tile, f" ({fields[0][:60]})")
        if raw in seen:
            fault(line, "the same line again", "")
        seen.add(raw)
        found.add(fields[0])
    if stems is None and any(scene_of_tile(stem) != stem for stem in found):
        result.problems.append(f"Task1_{name}.txt: images named like tiles (P0001__1024__0___0); the server wants whole images")
    for kind, number in faults.items():
        if number > _KEEP:
            result.problems.append(f"Task1_{name}.txt: {kind}: {number - _KEEP} more")
    if not count:
        result.notices.append(f"Task1_{name}.txt is empty: no {name} found")
    result.counts[name] = count
    return found


def _wrong_numbers(fields: list[str]) -> tuple[str, str] | None:
    """What is wrong with a score and eight coordinates, and a detail, or None."""
    try:
        values = [float(field.replace("_", "x")) for field in fields]
    except ValueError:
        return "found what is no number", ""
    if not all(map(math.isfinite, values)):
        return "found a number that is not finite", ""
    if not 0 <= values[0] <= 1:
        return "a score outside 0 to 1", f" ({values[0]:g})"
    if max(map(abs, values[1:])) > _FAR:
        return f"a coordinate more than {_FAR:g} pixels from the corner", ""
    area = float(signed_area(np.reshape(values[1:], (4, 2))))
    return None if abs(area) > LEAST_AREA else ("corners that enclose no area", "")
