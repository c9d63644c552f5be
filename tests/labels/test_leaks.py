"""Images on both sides, by their names, bytes and pixels."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from label_files import write_image
from rotanext.errors import Problems
from rotanext.images.reading import write_png
from rotanext.labels import leaks
from rotanext.labels.check import check_labels
from rotanext.labels.convert import FORMATS
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.labels.leaks import find_leaks, scene_of
from tiny import draw_dataset


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


def test_tiles_of_the_devkit_leak_too(tmp_path: Path) -> None:
    for subset, place in (("train", 0), ("val", 824)):
        (tmp_path / subset / "labelTxt").mkdir(parents=True)
        (tmp_path / subset / f"labelTxt/P1__0.5__{place}___0.txt").write_text("1 1 9 1 9 9 1 9 ship 0\n")
        write_image(tmp_path / subset / f"images/P1__0.5__{place}___0.png", 10, 10 + place % 7)
    train, val = (FORMATS["dota"].read(tmp_path / subset, None, Problems(strict=True)) for subset in ("train", "val"))
    assert [finding.kind for finding in find_leaks(train, val)] == ["same scene in training and validation"]


def test_two_places_with_images_of_one_name(tmp_path: Path) -> None:
    for subset, side in (("train", 50), ("val", 60)):
        (tmp_path / subset / "labelTxt").mkdir(parents=True)
        (tmp_path / subset / "labelTxt/0001.txt").write_text("1 1 9 1 9 9 1 9 ship 0\n")
        write_image(tmp_path / subset / "images/0001.png", side)
    train, val = (FORMATS["dota"].read(tmp_path / subset, None, Problems(strict=True)) for subset in ("train", "val"))
    (finding,) = find_leaks(train, val)
    assert (finding.kind, finding.serious) == ("same name in training and validation", False)
    (tmp_path / "val/images/0001.png").write_bytes((tmp_path / "train/images/0001.png").read_bytes())
    assert "same image in training and validation" in {finding.kind for finding in find_leaks(train, val)}


def one_set(*files: Path) -> LabelSet:
    return LabelSet([Shapes().image(path.name, (1, 1), file=path) for path in files])


def test_what_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of one colour shows too little to be told from another, and a huge one takes too much."""
    plain = [write_image(tmp_path / f"{name}.png", 40, 30 + at) for at, name in enumerate("ab")]
    assert list(find_leaks(one_set(*plain), None)) == []
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    shown = [cv2.resize(cv2.resize(noise, (256, 256)), (side, side), interpolation=cv2.INTER_AREA) for side in (256, 128)]
    files = [tmp_path / "e.png", tmp_path / "f.png"]
    for path, image in zip(files, shown, strict=True):
        write_png(path, image)
    assert [(f.kind, f.path) for f in find_leaks(one_set(*files), None)] == [("copy of an image", str(files[1]))]
    assert list(find_leaks(one_set(*files), None, pixels=False)) == []
    monkeypatch.setattr(leaks, "_LARGEST", 128 * 128)
    assert list(find_leaks(one_set(*files), None)) == []


def test_identical_files_are_told_even_where_nothing_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1234")
    (tmp_path / "b.png").write_bytes(b"1234")
    (tmp_path / "c.png").write_bytes(b"1235")
    found = list(find_leaks(one_set(tmp_path / "a.png", tmp_path / "c.png"), one_set(tmp_path / "b.png"), pixels=False))
    assert [(f.kind, Path(f.path).name, f.text) for f in found] == [
        ("same image in training and validation", "b.png", f"the same as {tmp_path / 'a.png'}")
    ]
