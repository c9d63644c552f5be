"""Faults in labels, leaks, coverage by anchors, the report, and the checker of submissions."""

import json
import re
import xml.dom.minidom
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from rotanext.data.dota import CLASS_LISTS
from rotanext.images.reading import write_png
from rotanext.labels import leaks
from rotanext.labels.check import check_labels
from rotanext.labels.findings import KINDS
from rotanext.labels.leaks import scene_of
from rotanext.reports.labels import histogram
from tiny import draw_dataset

SOUND = "10 10 40 10 40 30 10 30 plane 0"
FAULTS = (  # a line beside SOUND, and what is found
    ("50 10 80 10 80 30 50 30 plane 0", None),
    ("50 10 80 30 80 10 50 30 plane 0", "crossed corners"),
    ("50 10 60 10 70 10 80 10 plane 0", "no area"),
    ("150 10 180 10 180 30 150 30 plane 0", "outside the image"),
    ("80 10 120 10 120 30 80 30 plane 0", "beyond the edge"),
    ("50 30 80 30 80 10 50 10 plane 0", "counter-clockwise"),
    ("50 10 80 10 65 30 64 30 plane 0", "no rectangle"),
    ("50 10 80 10 80 12 50 12 plane 0", "tiny"),
    ("40 10 40 30 10 30 10 10 plane 0", "duplicate"),
    ("10 10 40 10 40 30.5 10 30.5 plane 0", "nearly a duplicate"),
    ("10 10 40 10 40 30 10 30 ship 0", "two classes in one place"),
    ("50 10 80 10 80 30 50 30 plain 0", "unknown class"),
    ("50 10 80 10 80 30 plane 0", "invalid label"),
    ("50 10 80 nan 80 10 50 30 plane 0", "invalid label"),
)


def one_image(root: Path, *lines: str) -> Path:
    for name in ("images", "labelTxt"):
        (root / name).mkdir(parents=True)
    write_png(root / "images/a.png", np.full((80, 100, 3), 90, np.uint8))
    (root / "labelTxt/a.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(("line", "kind"), FAULTS)
def test_faults_of_objects(line: str, kind: str | None, tmp_path: Path) -> None:
    found = check_labels(one_image(tmp_path, SOUND, line), class_names=("plane", "ship"))
    kinds = {finding.kind for finding in found.findings} - {"rare class"}
    assert kinds == ({kind} if kind else set())
    for finding in found.findings:
        if finding.kind == kind:
            assert finding.path.endswith("a.txt") or ":2" in finding.path
            assert finding.place == 2 or finding.path.endswith("a.txt:2")
    assert bool(found.problems) == bool(kind and KINDS[kind][0])


def test_images_and_labels_without_each_other(tmp_path: Path) -> None:
    root = one_image(tmp_path, SOUND)
    write_png(root / "images/b.png", np.zeros((8, 8, 3), np.uint8))
    (root / "labelTxt/c.txt").write_text(SOUND)
    counts = check_labels(root).counts
    assert counts["image without labels"] == counts["labels without image"] == 1


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("P0001__1024__0___0", "P0001"),
        ("P0001__512__-10___824", "P0001"),
        ("a_jpg.rf.0123456789abcdef0123456789abcdef", "a_jpg"),
        ("P0001__x", "P0001__x"),
    ],
)
def test_scene_of(name: str, scene: str) -> None:
    assert scene_of(name) == scene


def test_leaks(tmp_path: Path) -> None:
    train, val = draw_dataset(tmp_path / "train", 3), draw_dataset(tmp_path / "val", 2, seed=1)
    for root, names in ((train, {"p0": "P1__64__0___0", "p1": "b", "p2": "c"}), (val, {"p0": "P1__64__32___0", "p1": "d"})):
        for old, new in names.items():
            for folder, suffix in (("images", "png"), ("labelTxt", "txt")):
                (root / folder / f"{old}.{suffix}").rename(root / folder / f"{new}.{suffix}")
    (val / "images/d.png").write_bytes((train / "images/b.png").read_bytes())
    (train / "images/c.png").write_bytes((train / "images/b.png").read_bytes())
    found = check_labels(train, val)
    assert found.counts["same scene in training and validation"] == 1
    assert found.counts["same image in training and validation"] == 1
    assert found.counts["same image twice"] == 1
    whole = check_labels(tmp_path)  # its subsets train and val are held against each other, too
    assert whole.counts["same scene in training and validation"] == 1
    val.rename(tmp_path / "test")
    assert check_labels(tmp_path).counts["same scene in training and validation"] == 1
    assert check_labels(train, train).counts["same image in training and validation"] == 3
    apart = check_labels(draw_dataset(tmp_path / "x", 2, seed=5), draw_dataset(tmp_path / "y", 2, seed=6))
    assert {kind for kind in apart.counts if "training and validation" in kind} == {"same name in training and validation"}


def test_copies_in_other_bytes(tmp_path: Path, cli: Callable) -> None:
    train, val = draw_dataset(tmp_path / "train", 4), draw_dataset(tmp_path / "val", 4)
    for path in [*val.rglob("p*.*")]:
        path.rename(path.with_name(path.name.replace("p", "v", 1)))
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 255, (9, 9, 3)).astype(np.uint8), (256, 256)) for _ in range(8)]
    for index in range(4):
        write_png(train / f"images/p{index}.png", images[index])
        write_png(val / f"images/v{index}.png", images[index + 4])
    (val / "images/v0.png").unlink()
    cv2.imwrite(str(val / "images/v0.jpg"), images[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    write_png(val / "images/v1.png", cv2.resize(images[1], (128, 128), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(train / "images/p3.png"), images[2][..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])
    write_png(val / "images/v2.png", np.ascontiguousarray(images[2][:, ::-1]))  # another image, as far as this goes
    data = bytearray((val / "images/v3.png").read_bytes())
    data[data.index(b"IDAT") + 30] ^= 0x55
    (val / "images/v3.png").write_bytes(data)
    found = check_labels(train, val)
    kinds = {kind: [Path(f.path).name for f in found.findings if f.kind == kind] for kind in found.counts}
    assert kinds["copy of an image in training and validation"] == ["v0.jpg", "v1.png"]
    assert kinds["copy of an image"] == ["p3.png"]
    assert kinds["unreadable image"] == ["v3.png"]
    assert "unreadable image" in check_labels(val, val).counts
    done = cli("labels", "check", train, "--val", val, "--no-pixels")
    assert "copy" not in done.out
    assert "unreadable" not in done.out


def test_a_copy_is_found_behind_another_image_of_the_still_scene(tmp_path: Path) -> None:
    """The first image that looks alike at 16 x 16 is another shot; the one it was made of comes later."""
    train, val = draw_dataset(tmp_path / "train", 2), draw_dataset(tmp_path / "val", 1)
    scene = cv2.resize(np.random.default_rng(0).integers(60, 200, (9, 9, 3)).astype(np.uint8), (256, 256))
    board = np.indices((256, 256)).sum(0) // 4 % 2 * 2 - 1  # goes at 16 x 16, stays at 64 x 64
    other = np.clip(scene + 3 * board[..., None], 0, 255).astype(np.uint8)
    write_png(train / "images/p0.png", other)
    write_png(train / "images/p1.png", scene)
    (val / "images/p0.png").unlink()
    cv2.imwrite(str(val / "images/p0.jpg"), scene[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    found = [f for f in check_labels(train, val).findings if "copy" in f.kind]
    assert [(f.kind, Path(f.text.split()[-1]).name) for f in found] == [("copy of an image in training and validation", "p1.png")]


def test_pairs_are_the_same_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 255, (40, 256)).astype(np.float32)
    for copy, original in ((7, 2), (19, 7), (30, 29), (39, 2)):
        rows[copy] = rows[original] + rng.uniform(-0.4, 0.4, 256)
    expected = [(7, 2), (19, 2), (30, 29), (39, 2)]
    for block in (3, 8, 100):
        monkeypatch.setattr(leaks, "_BLOCK", block)
        found = list(leaks._alike_before(rows))
        assert [(at, earlier[0]) for at, earlier in found] == expected
        assert found[-1] == (39, [2, 7, 19])


class _Page(HTMLParser):
    """Counts what a page refers to, and whether its elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "line", "rect"):
            self.stack.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect"):
            assert self.stack.pop() == tag


def test_the_command_and_its_report(tmp_path: Path, cli: Callable) -> None:
    bad = one_image(tmp_path / "bad", SOUND, *(line for line, _ in FAULTS), "50 10 80 10 80 30 50 30 <script>alert(1)</script> 0")
    done = cli("labels", "check", bad, "--out", tmp_path / "report", "--json", "--recipe", "small")
    assert done.code == 1
    told = json.loads(done.out)
    assert told == json.loads((tmp_path / "report/report.json").read_text())
    assert not told["clean"]
    assert told["counts"]["crossed corners"] == {"count": 1, "problem": True}
    text = (tmp_path / "report/report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not page.stack
    own = [address for address in page.addresses if not re.fullmatch(r"#\w+", address)]
    assert own
    assert all(address.startswith("data:image/jpeg;base64,") for address in own)
    assert "<script>" not in text
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"https?://", text)
    for kind in told["counts"]:
        assert kind in text


def test_exit_codes(tmp_path: Path, cli: Callable) -> None:
    sound = one_image(tmp_path / "good", SOUND)
    done = cli("labels", "check", sound)
    assert (done.code, "1 image, 1 object, 1 class: 0 problems" in done.out) == (0, True)
    assert cli("labels", "check", tmp_path / "none").code == 2
    assert cli("labels", "check", sound, "--recipe", "smal").code == 2
    assert cli("labels", "check", sound, "--recipe", "small", "--weights", tmp_path / "x").code == 2
    assert cli("labels", "check", sound, "--weights", tmp_path / "x").code == 2
    assert cli("labels", "check", sound, "--from", "coco").code == 2
    assert cli("labels", "check", sound, "--classes", "dota1.0").code == 0
    (tmp_path / "names.txt").write_text("ship\n")
    done = cli("labels", "check", sound, "--classes", tmp_path / "names.txt")
    assert (done.code, "unknown class" in done.out) == (1, True)


def test_a_detector_s_classes_and_anchors(tiny_dataset: Path, tiny_weights: Path, cli: Callable) -> None:
    done = cli("labels", "check", tiny_dataset / "train", "--val", tiny_dataset / "val", "--weights", tiny_weights, "--json")
    assert json.loads(done.out)["priors"]["recipe"] == "demo"
    assert "unknown class" not in json.loads(done.out)["counts"]


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(5), np.array([1e9, -1e9, 3.0]), np.arange(1000.0)])
def test_histograms_are_whole(values: np.ndarray) -> None:
    if len(values):
        drawn = re.search(r"<svg.*</svg>", histogram("a <b>", values, np.array([0, 1, 2, 100.0])))
        assert drawn
        image = xml.dom.minidom.parseString(drawn[0])
        assert len([group for group in image.getElementsByTagName("g") if group.getAttribute("class") == "bar"]) == 3


def make_zip(path: Path, change: dict[str, str | None] | None = None) -> Path:
    files: dict[str, str | None] = {
        f"Task1_{name}.txt": "P0006 0.9 10 10 40 10 40 30 10 30\n" for name in CLASS_LISTS["dota1.0"]
    } | (change or {})
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            if text is not None:
                archive.writestr(name, text)
    return path


GOOD = "P0006 0.9 10 10 40 10 40 30 10 30\n"
SUBMISSIONS: tuple[tuple[dict[str, str | None], str], ...] = (
    ({"Task1_plane.txt": None}, "Task1_plane.txt is missing"),
    ({"Task1_plain.txt": GOOD}, "Task1_plain.txt: no class of dota1.0"),
    ({"readme.md": "x"}, "readme.md: expected only files named Task1_<class>.txt"),
    ({"results/Task1_plane.txt": GOOD}, "in a folder"),
    ({"Task1_plane.txt": "P0006 0.9 10 10\n"}, "Task1_plane.txt:1: found 4 fields"),
    ({"Task1_plane.txt": GOOD + GOOD}, "Task1_plane.txt:2: the same line again"),
    ({"Task1_plane.txt": GOOD.replace("0.9", "1.9")}, "a score outside 0 to 1 (1.9)"),
    ({"Task1_plane.txt": GOOD.replace("0.9", "nan")}, "a number that is not finite"),
    ({"Task1_plane.txt": GOOD.replace("40", "x")}, "found what is no number"),
    ({"Task1_plane.txt": GOOD.replace("40", "1e7")}, "a coordinate more than"),
    ({"Task1_plane.txt": GOOD.replace("40", "10")}, "corners that enclose no area"),
    ({"Task1_plane.txt": GOOD.replace("P0006", "P0006__1024__0___0")}, "a tile, not a whole image"),
    ({"Task1_plane.txt": GOOD.replace("P0006", "P9999")}, "no such image (P9999)"),
    ({f"Task1_{name}.txt": "" for name in CLASS_LISTS["dota1.0"]}, "no detection in any file"),
)  # fmt: skip


@pytest.mark.parametrize(("change", "message"), SUBMISSIONS)
def test_submissions(change: dict[str, str | None], message: str, tmp_path: Path, cli: Callable) -> None:
    one_image(tmp_path / "test")
    (tmp_path / "test/images/a.png").rename(tmp_path / "test/images/P0006.png")
    options = ("--images", tmp_path / "test/images")
    assert cli("labels", "check-submission", make_zip(tmp_path / "good.zip"), *options).code == 0
    done = cli("labels", "check-submission", make_zip(tmp_path / "bad.zip", change), *options, "--version", "dota1.0")
    assert done.code == 1
    assert message in done.out


def test_what_cannot_be_read_is_not_missing_as_well(tmp_path: Path, cli: Callable) -> None:
    path = make_zip(tmp_path / "a.zip", {"Task1_plane.txt": None, "results/Task1_plane.txt": GOOD})
    with zipfile.ZipFile(path, "a") as archive:
        locked = archive.infolist()[1]
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 8] |= 1  # the flag "encrypted" of the second entry
    path.write_bytes(data)
    found = json.loads(cli("labels", "check-submission", path, "--version", "dota1.0", "--json").out)["problems"]
    assert len(found) == 2, found
    assert f"{locked.filename}: encrypted" in found[0]
    other = make_zip(tmp_path / "b.zip", {"Task1_plane.txt": None, "results/model_plane.txt": GOOD})
    said = cli("labels", "check-submission", other, "--version", "dota1.0").out
    assert "Task1_plane.txt is missing" in said
    assert "results/Task1_plane.txt: in a folder" in found[1]


def test_submissions_that_are_none(tmp_path: Path, cli: Callable) -> None:
    (tmp_path / "a.zip").write_text("no zip")
    assert cli("labels", "check-submission", tmp_path / "a.zip").code == 2
    assert cli("labels", "check-submission", tmp_path / "none.zip").code == 2
    assert cli("labels", "check-submission", make_zip(tmp_path / "b.zip"), "--images", tmp_path / "none").code == 2
    assert cli("labels", "check-submission", make_zip(tmp_path / "b.zip"), "--version", "dota3").code == 2
    damaged = bytearray((tmp_path / "b.zip").read_bytes())
    damaged[40] ^= 255
    (tmp_path / "c.zip").write_bytes(damaged)
    assert cli("labels", "check-submission", tmp_path / "c.zip").code == 2
    told = json.loads(cli("labels", "check-submission", tmp_path / "b.zip", "--json").out)
    assert (told["problems"], sum(told["detections"].values())) == ([], 15)
