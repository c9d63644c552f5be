"""Labels and image headers in one pass: what it finds, what it says, how often it opens a file, and how far it is."""

import io
import json
import os
import pickle
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from places import ROOT, SUPPORT
from rotanext.data import index
from rotanext.data.dota import class_names_in, inside, list_items, parse_labels, read_class_list, read_objects
from rotanext.data.index import Entry, read_dataset, read_datasets, read_entries
from rotanext.errors import Problems, UserError
from rotanext.images.scenes import check_pixels
from rotanext.system import progress
from rotanext.system.progress import Display
from tiny import draw_dataset

PLANE, SHIP = "10 10 40 10 40 22 10 22 plane 0\n", "30 30 50 30 50 40 30 40 ship 1\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of four kinds with everything that can be wrong with labels and images."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "labelTxt"):
        (folder / name).mkdir()
    for k, suffix in enumerate(("png", "jpg", "tif", "bmp", "png", "png", "png", "jpg", "tif")):
        image = np.random.default_rng(k).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/p{k}.{suffix}"), image)
    labels = {
        "p0": f"imagesource:x\n{PLANE}{SHIP}{PLANE}",  # the same again
        "p1": "",
        "p2": f"{PLANE}1 2 3\n10 10 40 22 40 10 10 22 ship 0\n{SHIP}",  # broken, crossed
        "p3": f"{SHIP}500 500 540 500 540 520 500 520 plane 0\n",  # outside
        "p4": "10 10 40 10 40 22 10 22 tower 0\n10 10 40 22 40 10 10 22 harbor 0\n",  # a class of its own, and one crossed
        "p5": f"{PLANE}10 10 40 10 40 22 10 22 shio 0\n",
        "p6": SHIP,  # its image is cut off
        "p7": f"{PLANE}10 10 40 10 40 22 10 22 b\xe9 0\n",
        "lonely": "10 10 40 10 40 22 10 22 bridge 0\n",  # no image
    }
    for stem, text in labels.items():
        (folder / f"labelTxt/{stem}.txt").write_bytes(text.encode("latin-1"))
    cut = folder / "images/p6.png"
    cut.write_bytes(cut.read_bytes()[:500])
    (folder / "names.txt").write_text("plane\nship\n")
    return folder


def one_by_one(roots: Sequence[Path], choice: str, problems: Problems) -> tuple[tuple[str, ...], list[Entry]]:
    """The same, each file read on its own as often as it takes."""
    if choice == "auto":
        names = class_names_in((parse_labels(path) for root in roots for path in (root / "labelTxt").iterdir()), roots)
    else:
        names = read_class_list(choice, problems)
    entries = []
    for root in roots:
        for item in list_items(root, problems):
            assert item.label is not None
            try:
                size = check_pixels(item.image)
            except UserError as error:
                problems.note(str(error))
                continue
            objects = inside(read_objects(item.label, problems, names, item.image), *size, problems, item.label)
            entries.append(Entry(item.stem, item.image, objects, size))
    return names, entries


def told(entries: Iterable[Entry]) -> list[tuple[Any, ...]]:
    return [(e.stem, e.path, e.size, e.objects.names, e.objects.corners.tolist(), e.objects.difficult.tolist()) for e in entries]


@pytest.mark.parametrize("choice", ["auto", "names.txt"])
@pytest.mark.parametrize("times", [1, 2])
def test_one_pass_finds_and_says_the_same(root: Path, choice: str, times: int) -> None:
    choice = choice if choice == "auto" else str(root / choice)
    expected, found = Problems(keep=99), Problems(keep=99)
    names, entries = one_by_one([root] * times, choice, expected)
    assert read_dataset([root] * times, choice, found)[0] == names
    found = Problems(keep=99)
    assert told(read_dataset([str(root)] * times, choice, found)[1]) == told(entries)
    assert found == expected
    assert len(entries) == 7 * times
    assert found.count >= 8 * times
    assert ("tower" in names, "bridge" in names, "harbor" in names) == ((True, True, False) if choice == "auto" else (False,) * 3)
    if choice != "auto":
        assert any("Did you mean ship?" in text for text in found.first)


def test_names_that_are_known_already(root: Path) -> None:
    expected, found = Problems(), Problems()
    names, entries = read_dataset([root], str(root / "names.txt"), expected)
    assert told(read_entries([root], names, found)) == told(entries)
    assert found == expected


def test_strict_ends_at_the_first_problem_without_reading_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_dataset(tmp_path, 200)
    (folder / "labelTxt/p0.txt").write_text("1 2 3\n")
    read: list[Path] = []
    monkeypatch.setattr(index, "parse_labels", lambda path, image: (read.append(path), parse_labels(path, image))[1])
    with pytest.raises(UserError, match=r"p0\.txt:1: found 3 fields"):
        read_dataset([folder], ("plane", "ship"), Problems(strict=True))
    assert len(read) < 100
    with pytest.raises(UserError, match=r"p0\.txt:1: found 3 fields"):
        read_dataset([folder], "auto", Problems(strict=True))


@pytest.mark.parametrize("classes", ["auto", ("plane", "ship")])
def test_each_folder_is_listed_once(root: Path, classes: str | tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: (listed.append(folder.name), real(folder))[1])
    monkeypatch.setattr(Path, "glob", None)
    read_dataset([root], classes, Problems())
    assert sorted(listed) == ["images", "labelTxt"]


def test_errors(root: Path, tmp_path: Path) -> None:
    for classes in ("auto", ("ship",)):
        with pytest.raises(UserError, match="none: found no such folder; expected a data set"):
            read_dataset([tmp_path / "none"], classes, Problems())
    with pytest.raises(UserError, match="found no such class list"):
        read_dataset([root], "dota9", Problems())
    empty = draw_dataset(tmp_path / "empty", 2)
    for path in (empty / "labelTxt").iterdir():
        path.write_text("")
    with pytest.raises(UserError, match="found no valid object in any label file"):
        read_dataset([empty], "auto", Problems())
    gone = draw_dataset(tmp_path / "gone", 2)
    (gone / "labelTxt/p1.txt").unlink()
    (gone / "labelTxt/p1.txt").mkdir()
    for classes in ("auto", ("plane", "ship")):
        with pytest.raises(UserError, match=r"p1\.txt: found that it cannot be read"):
            read_dataset([gone], classes, Problems())


def test_entries_are_light(tmp_path: Path) -> None:
    """They go to other processes: an object costs its corners and difficulty, an image a few hundred bytes."""
    folder = draw_dataset(tmp_path, 100)
    _, entries = read_dataset([folder], "auto", Problems())
    length = len(pickle.dumps(entries)) - 200 * (64 + 8)
    assert length < 100 * 700
    names = {id(name) for entry in entries for name in entry.objects.names}
    assert len(names) == 2, "each class's name is held once"


# How often files are opened


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """What was opened, by (process, processes)."""
    folder = tmp_path_factory.mktemp("opens")
    shutil.copytree(root, folder / "train")
    draw_dataset(folder / "val", 3, seed=1)
    path = os.pathsep.join([str(SUPPORT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    script = [str(SUPPORT / "count_opens.py"), str(folder)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in (script, [*torchrun, *script]):
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return {key: json.loads((folder / f"opened-{key[0]}-of-{key[1]}.json").read_text()) for key in ((0, 1), (0, 2), (1, 2))}


def test_each_file_is_opened_once_before_the_first_step(counted: dict[tuple[int, int], dict[str, Any]], root: Path) -> None:
    labels = [f"train/labelTxt/{path.name}" for path in (root / "labelTxt").iterdir()]
    labels += [f"val/labelTxt/p{k}.txt" for k in range(3)]
    images = [f"train/images/{path.name}" for path in (root / "images").iterdir() if path.stem != "p8"]  # p8 has no label
    images += [f"val/images/p{k}.png" for k in range(3)]
    often = dict.fromkeys([*labels, *images], 1)
    # A file that shows damage is read to say which; a BMP has no end to look at.
    looked_at = {"train/images/p6.png", "train/images/p3.bmp"}
    for key in ((0, 1), (0, 2)):
        opened = counted[key]["opened"]
        assert opened.keys() == often.keys()
        assert {name: count for name, count in opened.items() if name not in looked_at and count != 1} == {}
        assert all(opened[name] == 2 for name in looked_at)
    assert counted[1, 2]["opened"] == {}, "the second process is told by the first"


def test_all_processes_know_the_same(counted: dict[tuple[int, int], dict[str, Any]]) -> None:
    alone = counted[0, 1]
    for key in ((0, 2), (1, 2)):
        assert {name: counted[key][name] for name in ("problems", "classes", "entries")} == {
            name: alone[name] for name in ("problems", "classes", "entries")
        }
    assert alone["problems"][0] >= 8
    assert len(alone["entries"]) == 10


def test_a_process_without_the_folder_says_so(root: Path, tmp_path: Path) -> None:
    """The data come from the main process; its folders may not be mounted elsewhere."""
    told = read_datasets([str(root)], [], "auto", Problems(), SimpleNamespace(from_main=lambda read: read()))  # type: ignore[arg-type]
    elsewhere = SimpleNamespace(from_main=lambda read: (told, Problems()))
    with pytest.raises(UserError, match="none: found no such folder"):
        read_datasets([str(tmp_path / "none")], [], "auto", Problems(), elsewhere)  # type: ignore[arg-type]


# How far it is


def test_a_bar_on_a_terminal(root: Path) -> None:
    main, side = pty.openpty()
    shown = io.BytesIO()

    def listen() -> None:
        while True:
            try:
                data = os.read(main, 4096)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            shown.write(data)

    listener = threading.Thread(target=listen)
    listener.start()
    with os.fdopen(side, "w") as terminal:
        console = Console(file=terminal, width=120)
        assert console.is_terminal
        read_dataset([root], "auto", Problems(), Display(console).track)
    listener.join(10)
    os.close(main)
    text = shown.getvalue().decode()
    assert "reading the data set" in text
    assert "9/9" in text
    assert " images/s" in text
    assert "\x1b[" in text, "drawn over, not line after line"


def test_lines_elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]

    def clock() -> float:
        now[0] += 4.0
        return now[0]

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    written = io.StringIO()
    read_dataset([root], "auto", Problems(), Display(Console(file=written, width=200)).track)
    first, *_, last = written.getvalue().splitlines()
    assert first == "reading the data set: 2/9, 0.1 images/s, 56 s left"
    assert last == "reading the data set: 9/9, 0.1 images/s"
    assert "\x1b" not in written.getvalue()


def test_nothing_is_said_of_a_moment(root: Path) -> None:
    written = io.StringIO()
    read_dataset([root], "auto", Problems(), Display(Console(file=written)).track)
    assert written.getvalue() == ""
