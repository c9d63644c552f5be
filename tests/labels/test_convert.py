"""Labels from one format to another: what a format holds comes back, what it does not hold is told."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from label_files import write_coco, write_image
from rotanext.errors import Problems, UserError
from rotanext.images.reading import write_png
from rotanext.labels.convert import FORMATS, convert_labels, fit
from rotanext.labels.dataset import LabelSet, Shapes
from rotanext.polygons import boxes_to_corners
from tiny import draw_dataset

NAMES = ("plane", "ship yard", "é<&>\"'", "0", "small-vehicle")


_coordinate = st.floats(-50, 500, allow_nan=False).map(lambda value: round(value, 3))


_side = st.floats(0.5, 300).map(lambda value: round(value, 3))


@st.composite
def _corners(draw: Callable) -> np.ndarray:
    """Rectangles at any angle, upright boxes, and quadrilaterals."""
    kind = draw(st.sampled_from(("turned", "upright", "any")))
    if kind == "any":
        return np.array(draw(st.lists(_coordinate, min_size=8, max_size=8))).reshape(4, 2)
    angle = draw(st.floats(-math.pi, math.pi)) if kind == "turned" else 0.0
    return boxes_to_corners([draw(_coordinate), draw(_coordinate), draw(_side), draw(_side), angle])


@st.composite
def _sets(draw: Callable) -> LabelSet:
    images = []
    for index, subset in enumerate(draw(st.lists(st.sampled_from(("train", "val")), min_size=1, max_size=3))):
        shapes = Shapes()
        for place in range(draw(st.integers(0, 4))):
            score = draw(st.one_of(st.just(float("nan")), st.floats(0.001, 1).map(lambda value: round(value, 4))))
            shapes.add(draw(_corners()), draw(st.sampled_from(NAMES)), place, draw(st.sampled_from((0, 1, 2))), score)
        images.append(shapes.image(f"p{index}.png", (60 + index, 40), subset=subset))
    return LabelSet(sorted(images, key=lambda p: (p.subset, p.name)), list(NAMES))


def place_images(target: Path, data: LabelSet, form: str) -> None:
    """Black images of the sizes that the set has, where the format wants them."""
    for image in data.images:
        place = target / FORMATS[form].folder.format(image.subset).strip("/") / image.name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_png(place, np.zeros((image.height, image.width, 3), np.uint8))


def assert_same(found: LabelSet, wanted: LabelSet, form: str) -> None:
    """Equal to 2e-4 pixel, and in everything else that the format holds."""
    assert [(p.name, p.subset, p.width, p.height) for p in found.images] == [
        (p.name, p.subset, p.width, p.height) for p in wanted.images
    ]
    for a, b in zip(found.images, wanted.images, strict=True):
        assert a.objects.names == b.objects.names
        wanted_corners = b.objects.corners
        if FORMATS[form].half_turn is not None:  # an angle of 0 may come back as one just below pi
            opposite = np.roll(wanted_corners, 2, 1)
            far = [np.abs(a.objects.corners - corners).max((1, 2), initial=0) for corners in (wanted_corners, opposite)]
            wanted_corners = np.where((far[0] <= far[1])[:, None, None], wanted_corners, opposite)
        np.testing.assert_allclose(a.objects.corners, wanted_corners, atol=4e-4, rtol=0)
        level = b.objects.difficult if FORMATS[form].difficult != 1 else np.where(b.objects.difficult == 2, 0, b.objects.difficult)
        np.testing.assert_array_equal(a.objects.difficult, level)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=_sets())
def test_what_a_format_holds_comes_back(form: str, data: LabelSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("set")
    problems = Problems(strict=True)
    fitted, _ = fit(data, FORMATS[form], problems)
    FORMATS[form].write(target, fitted)
    place_images(target, fitted, form)
    found = FORMATS[form].read(target, None, problems)
    assert_same(found, fitted, form)
    if FORMATS[form].scores:
        for a, b in zip(found.images, fitted.images, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6)
    again, lost = fit(found, FORMATS[form], problems)
    assert not [line for line in lost if not line.startswith("note: ")]
    assert_same(again, found, form)


@pytest.mark.parametrize("form", ["dota", "yolo-obb", "coco", "cvat", "labelme", "label-studio", "dior-r"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=_sets())
def test_quadrilaterals_are_kept(form: str, data: LabelSet) -> None:
    fitted, lost = fit(data, FORMATS[form], Problems(strict=True))
    assert all((a.objects.corners == b.objects.corners).all() for a, b in zip(fitted.images, data.images, strict=True))
    assert not [line for line in lost if line.startswith(("shapes", "angles", "first"))]


def dota_set(root: Path) -> Path:
    """Two images: a turned rectangle, an upright one, a skewed quadrilateral, one marked difficult and one cut; one empty."""
    (root / "labelTxt").mkdir(parents=True)
    (root / "images").mkdir()
    for name in ("a", "b"):
        write_png(root / "images" / f"{name}.png", np.full((80, 100, 3), 90, np.uint8))
    (root / "labelTxt/a.txt").write_text(
        "30 10 50 30 40 40 20 20 plane 0\n60 10 90 10 90 30 60 30 ship 1\n60 40 90 42 85 70 58 66 ship 2\n"
    )
    (root / "labelTxt/b.txt").write_text("")
    return root


LOSSES = (
    ("dota", []),
    ("yolo-obb", ["difficulty: 2 objects"]),
    ("coco", []),
    ("coco-rbox", ["shapes: 1 of 3 quadrilaterals"]),
    ("rolabelimg", ["shapes: 1 of 3", "cut objects: 1"]),
    ("hrsc", ["shapes: 1 of 3", "cut objects: 1"]),
    ("dior-r", ["cut objects: 1"]),
    ("cvat", []),
    ("labelme", []),
    ("label-studio", ["difficulty: 2"]),
    ("voc", ["angles: 2 of 3 objects", "cut objects: 1"]),
)


@pytest.mark.parametrize(("form", "lost"), LOSSES)
def test_a_conversion_tells_what_is_lost_and_comes_back(form: str, lost: list[str], tmp_path: Path, cli: Callable) -> None:
    source = dota_set(tmp_path / "dota")
    done = cli("labels", "convert", source, tmp_path / "out", "--from", "dota", "--to", form)
    assert done.code == 0, done.err
    assert "2 images with 3 objects of 2 classes" in done.err
    for line in lost:
        assert f"lost: {line}" in done.err
    assert done.err.count("lost: ") == len(lost)
    assert ("nothing was lost" in done.err) == (not lost)
    links = [path for path in (tmp_path / "out").rglob("*.png") if path.is_symlink()]
    assert len(links) == 2
    back = cli("labels", "convert", tmp_path / "out", tmp_path / "back", "--from", form, "--to", "dota", "--copy")
    assert back.code == 0, back.err
    assert not any(path.is_symlink() for path in (tmp_path / "back").rglob("*.png"))
    texts = [(root / "labelTxt/a.txt").read_text().splitlines() for root in (source, tmp_path / "back")]
    numbers = [np.array([line.split()[:8] for line in text], float) for text in texts]
    if not lost:
        np.testing.assert_allclose(numbers[0], numbers[1], atol=2e-4)
        assert [line.split()[8:] for line in texts[0]] == [line.split()[8:] for line in texts[1]]
    assert (tmp_path / "back/labelTxt/b.txt").read_text() == ""


OPTIONS = (
    (("--from", "dotta", "--to", "coco"), "--from is 'dotta'; nearest: 'dota'"),
    (("--from", "dota", "--to", "yolo"), "--to is 'yolo'; nearest: 'yolo-obb'"),
    (("--from", "dota", "--to", "coco", "--place-images", "move"), "--place-images is 'move'"),
    (("--from", "dota", "--to", "coco", "--images", "{tmp}/none"), "none: found no such folder"),
    (("--from", "coco", "--to", "dota"), "no labelled image"),
)


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_bad_options(options: tuple[str, ...], message: str, tmp_path: Path, cli: Callable) -> None:
    source = dota_set(tmp_path / "dota")
    done = cli("labels", "convert", source, tmp_path / "out", *(option.format(tmp=tmp_path) for option in options))
    assert done.code == 2
    assert message in done.err


def test_targets_in_use(tmp_path: Path, cli: Callable) -> None:
    source = dota_set(tmp_path / "dota")
    options = ("--from", "dota", "--to", "coco")
    assert "inside or around" in cli("labels", "convert", source, source / "out", *options).err
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").touch()
    assert "found files in the target" in cli("labels", "convert", source, tmp_path / "out", *options).err
    assert cli("labels", "convert", source, tmp_path / "out", *options, "--overwrite").code == 0
    assert "found a file" in cli("labels", "convert", source, tmp_path / "out/file", *options).err
    assert "nothing there" in cli("labels", "convert", tmp_path / "none", tmp_path / "new", *options).err


def test_names_never_lead_out_of_the_target(tmp_path: Path) -> None:
    """An image called `../../x.png`, or by an absolute path, is written below OUT, and no file elsewhere is linked."""
    secret = tmp_path / "secret.png"
    write_png(secret, np.zeros((80, 100, 3), np.uint8))
    images = [
        {"id": n, "file_name": name, "width": 100, "height": 80}
        for n, name in enumerate(("../secret.png", str(secret), "..", "a/../../b.png", "x\0.png", ".hidden.png"))
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    problems = Problems()
    done = convert_labels(tmp_path / "in", tmp_path / "out" / "deep", "coco", "labelme", problems=problems)
    assert problems.count == 4  # three names that are none, and secret.png a second time
    assert done.images == 2
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["b.json", "secret.json"]


def test_labels_without_images_go_where_no_size_is_needed(tmp_path: Path) -> None:
    (tmp_path / "in/labelTxt").mkdir(parents=True)
    (tmp_path / "in/labelTxt/a.txt").write_text("1 1 9 1 9 5 1 5 a 0\n")
    assert convert_labels(tmp_path / "in", tmp_path / "dota", "dota", "dota").objects == 1
    with pytest.raises(UserError, match="no image that could be converted"):
        convert_labels(tmp_path / "in", tmp_path / "coco", "dota", "coco")


def test_classes_that_would_become_one_are_refused() -> None:
    shapes = Shapes()
    for name in ("a b", "a-b"):
        shapes.add(np.array([[0, 0], [9, 0], [9, 9], [0, 9.0]]), name, 1)
    data = LabelSet([shapes.image("p.png", (10, 10))], ["a b", "a-b"])
    with pytest.raises(UserError, match="cannot be told apart"):
        fit(data, FORMATS["dota"], Problems())


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_images_survive_a_conversion_over_them(mode: str, tmp_path: Path) -> None:
    source = write_coco(tmp_path / "s/ann.json", "a.png")
    kept = write_image(tmp_path / "t/images/a.png").read_bytes()
    for target in (tmp_path / "t", tmp_path / "t/images", tmp_path / "t/images/deeper"):
        with pytest.raises(UserError, match="inside or around"):
            convert_labels(source, target, "coco", "yolo-obb", images=tmp_path / "t/images", overwrite=True, placing=mode)  # type: ignore[arg-type]
    assert (tmp_path / "t/images/a.png").read_bytes() == kept
    assert not (tmp_path / "t/images/a.png").is_symlink()


def test_a_second_conversion_does_not_read_the_first(tmp_path: Path) -> None:
    source, kept = write_coco(tmp_path / "d/ann.json", "a.png"), write_image(tmp_path / "d/a.png").read_bytes()
    convert_labels(source, tmp_path / "d/out", "coco", "yolo-obb")
    with pytest.raises(UserError, match="inside or around"):
        convert_labels(source, tmp_path / "d/out", "coco", "yolo-obb", overwrite=True)
    convert_labels(source, tmp_path / "out", "coco", "yolo-obb", images=tmp_path / "d/out/images")
    convert_labels(source, tmp_path / "out", "coco", "yolo-obb", images=tmp_path / "d/out/images", overwrite=True, placing="copy")
    assert (tmp_path / "out/images/a.png").read_bytes() == (tmp_path / "d/out/images/a.png").read_bytes() == kept
    assert not list((tmp_path / "out").rglob("*.part"))


def test_other_images_without_labels_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png")
    write_image(tmp_path / "in/b.png")
    done = convert_labels(write_coco(tmp_path / "in/ann.json", "a.png"), tmp_path / "out", "coco", "dota")
    assert done.lost == ("images: 1 have no labels and were left out (b.png, ...)",)


@pytest.mark.parametrize("form", FORMATS)
def test_odd_names_and_sets_without_objects(form: str, tmp_path: Path) -> None:
    names = ("#x?.png", "%41.png", "A.png", "a b+ü.png")
    (tmp_path / "in/labelTxt").mkdir(parents=True)
    for at, name in enumerate(names):
        write_image(tmp_path / "in/images" / name, 50 + at)
        (tmp_path / "in/labelTxt" / f"{name[:-4]}.txt").write_text("")
    for objects in (0, len(names)):
        convert_labels(tmp_path / "in", tmp_path / "there", "dota", form, problems=Problems(strict=True), overwrite=True)
        done = convert_labels(tmp_path / "there", tmp_path / "back", form, "dota", problems=Problems(strict=True), overwrite=True)
        assert (done.images, done.objects, done.lost) == (len(names), objects, ())
        assert sorted(path.stem for path in (tmp_path / "back/labelTxt").iterdir()) == sorted(name[:-4] for name in names)
        for name in names:
            (tmp_path / "in/labelTxt" / f"{name[:-4]}.txt").write_text("10 10 40 10 40 30 10 30 ship 0\n")


def test_subsets_are_counted_and_what_was_skipped_is_not_nothing(tmp_path: Path, cli: Callable) -> None:
    draw_dataset(tmp_path / "data/train", 3)
    draw_dataset(tmp_path / "data/val", 2, seed=1)
    done = cli(
        "labels", "convert", tmp_path / "data", tmp_path / "a", "--from", "dota", "--to", "labelme", "--place-images", "none"
    )
    assert "train: 3, val: 2" in done.err
    label = tmp_path / "data/val/labelTxt/p0.txt"
    label.write_text(label.read_text() + "1 2 3\n")
    done = cli(
        "labels", "convert", tmp_path / "data", tmp_path / "b", "--from", "dota", "--to", "labelme", "--place-images", "none"
    )
    assert (done.code, "  nothing was lost" in done.err, "of what was read, nothing was lost" in done.err) == (1, False, True)
