"""What is known of data sets before any image is decoded: classes, objects and sizes, each file being opened once."""

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rotanext.data.dota import (
    Item,
    Listed,
    Parsed,
    check_folder,
    class_names_in,
    inside,
    known_objects,
    list_folder,
    parse_labels,
    read_class_list,
)
from rotanext.errors import Problems, UserError, explain
from rotanext.images.scenes import check_pixels
from rotanext.objects import Objects
from rotanext.system.progress import Track, untracked
from rotanext.system.readahead import read_ahead

if TYPE_CHECKING:  # accelerate stays out of what splits and evaluates
    from rotanext.system.processes import Processes

READERS = 8  # threads: they mostly wait for the disk
READING = "reading the data set"

Pair = tuple[Path, Path | None]  # a label file and its image


class Entry(NamedTuple):
    """One labelled image on disk."""

    stem: str
    path: Path
    objects: Objects
    size: tuple[int, int]  # width and height in pixels


class _Read(NamedTuple):
    """What a label file holds, where that counts, and its image's width and height, or why there is none."""

    parsed: Parsed | None
    size: tuple[int, int] | UserError


class DataSets(NamedTuple):
    """The classes of a training and its labelled images."""

    class_names: tuple[str, ...]
    train: list[Entry]
    val: list[Entry]


def read_dataset(
    roots: Sequence[str | Path], classes: str | Path | tuple[str, ...], problems: Problems, track: Track = untracked
) -> tuple[tuple[str, ...], list[Entry]]:
    """Class names and labelled images of DOTA folders, in one pass; raises UserError where there are none.

    classes: the names; "auto": those in the labels, sorted; or what `read_class_list` takes. Images that are no images or cut off,
    and objects that are none of these classes or outside their image, go to `problems`; nothing is decoded yet.
    """
    names = classes if isinstance(classes, tuple) else None if str(classes) == "auto" else read_class_list(classes, problems)
    listed: list[tuple[Listed, Problems]] = []
    for root in roots:
        found = Problems(problems.strict, problems.keep)
        listed.append((list_folder(root, found), found))
    pairs: dict[Pair, None] = dict.fromkeys(_pair(item) for (items, _), _ in listed for item in items)
    if names is None:  # the classes of label files without image count, too
        pairs |= dict.fromkeys((path, None) for (_, alone), _ in listed for path in alone)
    read: dict[Pair, _Read] = {}
    with closing(_read_each(list(pairs), names is None, track)) as stream:
        if names is None:
            read |= dict(stream)
            names = class_names_in((one.parsed for one in read.values() if one.parsed is not None), roots)
        entries = []
        for (items, _), found in listed:
            problems.merge(found)
            for item in items:
                while _pair(item) not in read:  # with names known, a strict problem ends the reading at once
                    read.update([next(stream)])
                parsed, size = read[_pair(item)]
                if isinstance(size, UserError):
                    problems.note(str(size))
                elif parsed is not None:
                    objects = inside(known_objects(parsed, problems, names), *size, problems, parsed.path)
                    entries.append(Entry(item.stem, item.image, objects, size))
        read.update(stream)  # nothing is left in it, but its display has yet to come to the end
    if not entries:
        raise UserError(
            explain(
                ", ".join(map(str, roots)) or "data",
                "no readable image with a label file",
                "images/NAME.png with labelTxt/NAME.txt",
                " ".join(["Give a DOTA folder.", *problems.first[:1]]),
            )
        )
    return names, entries


def read_entries(
    roots: Sequence[str | Path], class_names: tuple[str, ...], problems: Problems, track: Track = untracked
) -> list[Entry]:
    """The labelled images of DOTA folders, see `read_dataset`."""
    return read_dataset(roots, class_names, problems, track)[1]


def read_datasets(
    train: Sequence[str],
    val: Sequence[str],
    classes: str,
    problems: Problems,
    processes: "Processes",
    track: Track = untracked,
) -> DataSets:
    """The data of a training, read by the main process for all; raises like `read_dataset`, and where a process lacks a folder."""

    def read() -> tuple[DataSets, Problems]:
        found = Problems(problems.strict, problems.keep)
        names, entries = read_dataset(train, classes, found, track)
        return DataSets(names, entries, read_entries(val, names, found, track) if val else []), found

    data, found = processes.from_main(read)
    for root in (*train, *val):  # another machine may not have mounted it
        check_folder(Path(root), "images")
    problems.merge(found)
    return data


def _pair(item: Item) -> Pair:
    assert item.label is not None
    return item.label, item.image


def _read_each(pairs: list[Pair], all_classes: bool, track: Track) -> Generator[tuple[Pair, _Read]]:
    """Every pair with what is in it, in order; raises the UserError of a label file that cannot be read."""
    ahead = read_ahead(pairs, partial(_read, all_classes=all_classes), threads=READERS, ahead=4 * READERS)
    with closing(track(ahead, READING, len(pairs))) as stream:
        for pair, read in stream:
            if isinstance(read, UserError):
                raise read
            yield pair, read


def _read(pair: Pair, all_classes: bool) -> _Read:
    """all_classes: the label counts even where its image cannot be read."""
    label, image = pair
    size: tuple[int, int] | UserError = (0, 0)
    if image is not None:
        try:
            size = check_pixels(image)
        except UserError as error:
            if not all_classes:
                return _Read(None, error)
            size = error
    return _Read(parse_labels(label, image), size)
