import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely

import places
from rotanext.data.dota import read_objects, write_objects
from rotanext.data.split import objects_in_window, split_dataset
from rotanext.data.tiles import windows
from rotanext.errors import Problems, UserError
from rotanext.images.reading import image_size, read_image, write_png
from rotanext.objects import Objects

GOLDEN = places.GOLDEN / "split.json"


def tiles_of(label: Path, width: int, height: int, folder: Path) -> dict[str, list[str]]:
    """Label lines of every tile of one image."""
    objects = read_objects(label, Problems(strict=True))
    result = {}
    for x, y, size in windows(width, height, [1024], [200]):
        write_objects(folder / "tile.txt", objects_in_window(objects, x, y, size))
        result[f"{label.stem}__{size}__{x}___{y}"] = (folder / "tile.txt").read_text().splitlines()
    return result


def test_golden_tiles(shared: Path, tmp_path: Path) -> None:
    labels = shared / "data" / "dota-sample" / "labelTxt"
    tiles: dict[str, list[str]] = {}
    for stem, width, height in (("P0075", 451, 839), ("P1088", 1599, 1903), ("P1888", 712, 557)):
        tiles |= tiles_of(labels / f"{stem}.txt", width, height, tmp_path)
    assert tiles == json.loads(GOLDEN.read_text())


def test_tiles_of_the_official_development_kit(shared: Path, tmp_path: Path) -> None:
    """The same tiles and objects, but for its treatment of objects that a border cuts (REFERENCE.md's rule is ours).

    Where we keep corners whole, it clips them to the window 1..1024 and brings five back to four by the midpoint of the
    shortest side; where we write difficulty 2, it keeps the label's while at least 70 % are inside;
    where we drop an object of which less is inside, it writes the part, with difficulty 2 (unless it is a triangle).
    """
    folder = shared / "data" / "dota-p0032"
    width, height = image_size(folder / "images" / "P0032.png")
    mine = tiles_of(folder / "labelTxt" / "P0032.txt", width, height, tmp_path)
    official = {path.stem: path.read_text().split("\n")[:-1] for path in sorted((folder / "patch_labelTxt").glob("*.txt"))}
    official = {name.replace("__1__", "__1024__"): [line for line in lines if line] for name, lines in official.items()}
    assert sorted(mine) == sorted(official)
    # By tile: lines equal; ours that it clipped; its lines of objects that are less than 70 % inside
    expected = {"0___0": (39, 0, 0), "0___665": (13, 1, 0), "824___0": (3, 0, 1), "824___665": (4, 1, 0)}
    expected |= {"1401___0": (5, 0, 1), "1401___665": (1, 1, 1)}
    for name, lines in mine.items():
        equal, clipped, slight = expected[name.removeprefix("P0032__1024__")]
        assert len(set(lines) & set(official[name])) == equal
        cut = [line for line in lines if line not in official[name]]
        assert len(cut) == clipped
        assert all(line.endswith(" 2") for line in cut)
        others = [line for line in official[name] if line not in lines]
        assert sum(line.endswith(" 2") for line in others) == slight
        whole = [line for line in others if not line.endswith(" 2")]
        assert len(whole) == clipped
        for ours, theirs in zip(cut, whole, strict=True):
            part = shapely.intersection(polygon(ours), shapely.box(0, 0, 1024, 1024)).exterior.coords
            vertices = np.array(part)[:-1]
            sides = np.linalg.norm(vertices - np.roll(vertices, -1, 0), axis=1)
            midpoint = (vertices + np.roll(vertices, -1, 0))[[sides.argmin()]] / 2
            known = np.concatenate([vertices, midpoint])
            corners = np.array(polygon(theirs).exterior.coords)[:4]
            assert np.abs(corners[:, None] - known).max(-1).min(1).max() <= 1


def polygon(line: str) -> shapely.Polygon:
    return shapely.Polygon(np.array(line.split()[:8], float).reshape(4, 2))


def one(corners: list[list[float]]) -> Objects:
    return Objects(np.array([corners], float), ["plane"], np.array([1]))


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


@pytest.mark.parametrize(
    ("corners", "difficult"),
    [
        (rectangle(10, 10, 20, 20), 1),  # inside
        (rectangle(0, 0, 100, 100), 1),  # the window itself
        (rectangle(0, 0, 100 + 1e-7, 100), 1),  # rounding is no cut
        (rectangle(93, 10, 103, 20), 2),  # exactly 70 %
        (rectangle(93.01, 10, 103.01, 20), None),
        (rectangle(-3, -0.0, 7, 10), 2),
        (rectangle(-10, 0, 0, 10), None),  # touches
        (rectangle(-50, -50, 150, 150), None),  # 25 % inside, no corner inside
        (rectangle(-10, 40, 110, 60), 2),  # 83 % inside, no corner inside
        (rectangle(200, 200, 210, 210), None),
        ([[0, 0], [40, 20], [0, 40], [10, 20]], 1),  # a dart
        ([[20, 10], [10, 10], [10, 20], [20, 20]], 1),  # counter-clockwise
    ],
)
def test_objects_in_a_window(corners: list[list[float]], difficult: int | None) -> None:
    offset = (824, 1648)
    objects = one((np.array(corners) + offset).tolist())
    held = objects_in_window(objects, *offset, 100)
    assert held.difficult.tolist() == ([] if difficult is None else [difficult])
    assert np.abs(held.corners - np.array([corners])[: len(held)]).max(initial=0) < 1e-9  # whole, shifted


def test_no_objects() -> None:
    empty = Objects(np.zeros((0, 4, 2)), [], np.zeros(0, np.int64))
    assert len(objects_in_window(empty, 0, 0, 10)) == 0


def test_area_in_a_window_is_shapelys() -> None:
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (3000, 4)), 1)
    radii = rng.uniform(5, 80, (3000, 4))  # convex, darts, slivers
    corners = np.stack([np.cos(angles), np.sin(angles)], -1) * radii[..., None] + rng.uniform(-40, 140, (3000, 1, 2))
    shapes = shapely.polygons(corners)
    corners, shapes = corners[shapely.is_valid(shapes)], shapes[shapely.is_valid(shapes)]
    share = shapely.area(shapely.intersection(shapes, shapely.box(0, 0, 100, 100))) / shapely.area(shapes)
    objects = Objects(corners, [str(i) for i in range(len(corners))], np.zeros(len(corners), np.int64))
    held = [int(name) for name in objects_in_window(objects, 0, 0, 100).names]
    assert held == np.flatnonzero(share >= 0.7).tolist()  # none is within rounding of 70 %
    assert len(corners) > 2000
    assert 0.1 < len(held) / len(corners) < 0.9


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images: larger than a window of 40, smaller, and background."""
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    (source / "labelTxt").mkdir()
    rng = np.random.default_rng(0)
    for name, shape in {"big": (90, 70), "small": (20, 35), "empty": (40, 40)}.items():
        write_png(source / "images" / f"{name}.png", rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    (source / "labelTxt" / "big.txt").write_text(
        "gsd:1\n5 5 15 5 15 15 5 15 plane 0\n25 25 45 25 45 35 25 35 ship 1\n500 500 510 500 510 510 500 510 ship 0\n"
    )
    (source / "labelTxt" / "small.txt").write_text("5 5 45 5 45 15 5 15 plane 0\n")
    (source / "labelTxt" / "empty.txt").touch()
    return source


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_whole_split(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = Problems()
    target = tmp_path / "target"
    report = split_dataset(source, target, 40, 10, workers=1, problems=problems)
    files = contents(target)
    stems = {f"big__40__{x}___{y}" for x in (0, 30) for y in (0, 30, 50)} | {"small__40__0___0", "empty__40__0___0"}
    assert set(files) == {f"images/{stem}.png" for stem in stems} | {f"labelTxt/{stem}.txt" for stem in stems}
    assert (report.images, report.tiles, report.objects, report.labelled) == (3, 8, 4, True)
    assert report.empty_tiles == 8 - 4 + 1  # the tile at 0, 0 has two objects
    assert files["labelTxt/big__40__0___0.txt"] == (
        b"5.0 5.0 15.0 5.0 15.0 15.0 5.0 15.0 plane 0\n25.0 25.0 45.0 25.0 45.0 35.0 25.0 35.0 ship 2\n"
    )
    assert files["labelTxt/big__40__30___0.txt"] == b"-5.0 25.0 15.0 25.0 15.0 35.0 -5.0 35.0 ship 2\n"
    # Cut by the image's edge, not by the window's.
    assert files["labelTxt/small__40__0___0.txt"] == b"5.0 5.0 45.0 5.0 45.0 15.0 5.0 15.0 plane 2\n"
    assert files["labelTxt/empty__40__0___0.txt"] == b""
    image = read_image(source / "images" / "big.png")
    assert (read_image(target / "images" / "big__40__30___50.png") == image[50:90, 30:70]).all()
    small = read_image(target / "images" / "small__40__0___0.png")
    assert (small[:20, :35] == read_image(source / "images" / "small.png")).all()
    assert (small[20:] == (124, 116, 104)).all()
    assert (small[:, 35:] == (124, 116, 104)).all()
    assert problems.count == 1  # the object outside
    assert "big.txt: found a ship at x 500..510" in problems.first[0]
    assert "splitting: 3/3, " in capsys.readouterr().err


def test_two_threads_write_the_same(source: Path, tmp_path: Path) -> None:
    results = []
    for workers in (1, 2):
        problems = Problems()
        (source / "images" / "broken.png").write_text("no image")
        (source / "labelTxt" / "broken.txt").touch()
        target = tmp_path / f"target{workers}"
        report = split_dataset(source, target, 40, 10, (0.5, 1.0), workers=workers, problems=problems, progress=False)
        results.append((contents(target), report.tiles, report.objects, problems.count, sorted(problems.first)))
    assert results[0] == results[1]
    assert results[0][3] == 2
    assert any(name.startswith("images/big__80__0___0") for name in results[0][0])


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_refuses_a_broken_image(source: Path, tmp_path: Path, workers: int) -> None:
    data = (source / "images" / "small.png").read_bytes()
    (source / "images" / "small.png").write_bytes(data[:-30])
    problems = Problems()
    report = split_dataset(source, tmp_path / "a", 40, 10, workers=1, problems=problems, progress=False)
    assert report.images == 2
    assert problems.count == 2
    with pytest.raises(UserError):
        split_dataset(source, tmp_path / "b", 40, 10, workers=workers, problems=Problems(strict=True), progress=False)


def test_images_without_labels_are_split_alone(source: Path, tmp_path: Path) -> None:
    (source / "labelTxt").rename(tmp_path / "elsewhere")
    report = split_dataset(source, tmp_path / "target", 40, 10, workers=1, progress=False)
    assert not report.labelled
    assert report.tiles == 8
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["images"]


def test_overwrite_removes_the_old_tiles_only(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    split_dataset(source, target, 30, 10, workers=1, progress=False)
    (target / "images" / "mine.png").touch()
    with pytest.raises(UserError, match="--overwrite"):
        split_dataset(source, target, 40, 10, workers=1, progress=False)
    split_dataset(source, target, 40, 10, workers=1, progress=False, overwrite=True)
    assert (target / "images" / "mine.png").exists()
    assert not list(target.glob("*/*__30__*___*"))
    assert len(list(target.glob("labelTxt/*__40__*"))) == 8


BAD: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "overlap as large as the size": (lambda _: {"size": 40, "overlap": 40}, "--overlap: found 40"),
    "negative overlap": (lambda _: {"size": 40, "overlap": -1}, "--overlap: found -1"),
    "no size": (lambda _: {"size": 0, "overlap": 0}, "--size: found 0"),
    "rate 0": (lambda _: {"rates": (1.0, 0.0)}, "--rates"),
    "rate infinite": (lambda _: {"rates": (float("inf"),)}, "--rates"),
    "rate NaN": (lambda _: {"rates": (float("nan"),)}, "--rates"),
    "no rates": (lambda _: {"rates": ()}, "--rates"),
    "windows below a pixel": (lambda _: {"size": 40, "overlap": 0, "rates": (50.0,)}, "--rates"),
    "target is source": (lambda root: {"target": root / "source"}, "inside the source"),
    "target inside source": (lambda root: {"target": root / "source" / "tiles"}, "inside the source"),
    "target in use": (lambda root: {"target": root}, "--overwrite"),
    "target is a file": (lambda root: {"target": root / "source" / "labelTxt" / "big.txt"}, "inside|a file"),
    "source missing": (lambda root: {"source": root / "missing"}, "missing: found no such folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_options_that_make_no_sense(source: Path, tmp_path: Path, name: str) -> None:
    options, message = BAD[name]
    arguments: dict[str, object] = {"source": source, "target": tmp_path / "target", "workers": 1, "progress": False}
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message):
        split_dataset(**(arguments | options(tmp_path)))
    assert contents(tmp_path) == before


def test_a_label_folder_under_another_name_is_no_test_set(source: Path, tmp_path: Path) -> None:
    (source / "labelTxt").rename(source / "labelTxt-v1.0")
    with pytest.raises(UserError, match=r"Rename labelTxt-v1\.0 to labelTxt"):
        split_dataset(source, tmp_path / "target", progress=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_readable_is_an_error(source: Path, tmp_path: Path, workers: int) -> None:
    for path in (source / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no image that could be read.*an empty file"):
        split_dataset(source, tmp_path / "target", workers=workers, progress=False)


def test_a_full_disk_is_explained(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        split_dataset(source, tmp_path / "target", 40, 10, workers=1, progress=False)
    assert not contents(tmp_path / "target")
