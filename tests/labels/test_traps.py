"""Where labels of other tools mislead: images of one name, turned photographs, backgrounds, words for yes and no, old outputs."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rotanext.errors import Problems, UserError
from rotanext.images.reading import write_png
from rotanext.labels.convert import FORMATS, convert_labels
from rotanext.labels.leaks import find_leaks
from rotanext.labels.values import Invalid, level
from tiny import draw_dataset

LINE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"


def image(path: Path, width: int = 100, height: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((height, width, 3), 90, np.uint8))
    return path


def coco(path: Path, *names: str, **annotation: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(names)]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 20, 20]} | annotation
    path.write_text(json.dumps({"images": images, "annotations": [box], "categories": [{"id": 1, "name": "ship"}]}))
    return path


def yolo(root: Path, *subsets: str) -> Path:
    for subset in subsets:
        image(root / "images" / subset / "a.png")
        (root / "labels" / subset).mkdir(parents=True)
        (root / "labels" / subset / "a.txt").write_text(LINE)
    places = "".join(f"{subset}: images/{subset}\n" for subset in subsets)
    (root / "data.yaml").write_text(f"{places}names: [ship]\n")
    return root


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_images_survive_a_conversion_over_them(mode: str, tmp_path: Path) -> None:
    source = coco(tmp_path / "s/ann.json", "a.png")
    kept = image(tmp_path / "t/images/a.png").read_bytes()
    for target in (tmp_path / "t", tmp_path / "t/images", tmp_path / "t/images/deeper"):
        with pytest.raises(UserError, match="inside or around"):
            convert_labels(source, target, "coco", "yolo-obb", images=tmp_path / "t/images", overwrite=True, placing=mode)  # type: ignore[arg-type]
    assert (tmp_path / "t/images/a.png").read_bytes() == kept
    assert not (tmp_path / "t/images/a.png").is_symlink()


def test_a_second_conversion_does_not_read_the_first(tmp_path: Path) -> None:
    source, kept = coco(tmp_path / "d/ann.json", "a.png"), image(tmp_path / "d/a.png").read_bytes()
    convert_labels(source, tmp_path / "d/out", "coco", "yolo-obb")
    with pytest.raises(UserError, match="inside or around"):
        convert_labels(source, tmp_path / "d/out", "coco", "yolo-obb", overwrite=True)
    convert_labels(source, tmp_path / "out", "coco", "yolo-obb", images=tmp_path / "d/out/images")
    convert_labels(source, tmp_path / "out", "coco", "yolo-obb", images=tmp_path / "d/out/images", overwrite=True, placing="copy")
    assert (tmp_path / "out/images/a.png").read_bytes() == (tmp_path / "d/out/images/a.png").read_bytes() == kept
    assert not list((tmp_path / "out").rglob("*.part"))


def test_subsets_with_images_of_one_name(tmp_path: Path) -> None:
    for subset in ("train2017", "val2017"):
        image(tmp_path / subset / "0001.png")
        coco(tmp_path / f"annotations/instances_{subset}.json", "0001.png")
    found = FORMATS["coco"].read(tmp_path, None, Problems(strict=True))
    assert {p.subset: p.file.parent.name for p in found.images if p.file} == {"train": "train2017", "val": "val2017"}


def test_two_images_that_may_be_meant_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "x/0001.png")
    image(tmp_path / "y/0001.png")
    coco(tmp_path / "all.json", "0001.png", "y/0001.png")
    problems = Problems()
    found = FORMATS["coco"].read(tmp_path / "all.json", None, problems)
    assert [p.file for p in found.images] == [tmp_path / "y/0001.png"]
    assert any("two images for 0001.png" in line for line in problems.first)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_photographs_that_are_turned_on_the_way_to_the_screen(turn: int, tmp_path: Path) -> None:
    root = yolo(tmp_path, "train")
    (root / "images/train/a.png").unlink()
    tags = Image.Exif()
    tags[274] = turn
    Image.new("RGB", (100, 80)).save(root / "images/train/a.jpg", exif=tags)
    problems = Problems()
    if turn == 1:
        assert FORMATS["yolo-obb"].read(root, None, problems).count == 1
        return
    with pytest.raises(UserError, match="no labelled image"):
        FORMATS["yolo-obb"].read(root, None, problems)
    assert f"orientation {turn}" in problems.first[0]


def test_our_own_format_is_of_stored_pixels(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[274] = 6
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / "images/a.jpg", exif=tags)
    (tmp_path / "labelTxt/a.txt").write_text("10 10 50 10 50 30 10 30 ship 0\n")
    found = FORMATS["dota"].read(tmp_path, None, Problems(strict=True)).images[0]
    assert (found.width, found.height) == (100, 80) == cv2.imread(str(tmp_path / "images/a.jpg"), 128 | 1).shape[1::-1]


def test_yolo_images_without_a_file_are_background(tmp_path: Path) -> None:
    root = yolo(tmp_path / "in", "train")
    image(root / "images/train/empty.png")
    done = convert_labels(root, tmp_path / "out", "yolo-obb", "dota")
    assert (done.images, done.objects, done.lost) == (2, 1, ())
    assert (tmp_path / "out/train/labelTxt/empty.txt").read_text().strip() == ""


def test_other_images_without_labels_are_counted(tmp_path: Path) -> None:
    image(tmp_path / "in/a.png")
    image(tmp_path / "in/b.png")
    done = convert_labels(coco(tmp_path / "in/ann.json", "a.png"), tmp_path / "out", "coco", "dota")
    assert done.lost == ("images: 1 have no labels and were left out (b.png, ...)",)


def test_one_folder_of_images_for_all_subsets(tmp_path: Path, cli: Callable) -> None:
    root = yolo(tmp_path / "in", "train", "val")
    (root / "labels/val/a.txt").rename(root / "labels/val/b.txt")
    for name in ("a", "b"):
        image(tmp_path / f"all/{name}.png")
    found = FORMATS["yolo-obb"].read(root, tmp_path / "all", Problems(strict=True))
    assert (len(found.images), found.unlabelled) == (2, [])


def test_masks_are_no_images(tmp_path: Path) -> None:
    convert_labels(yolo(tmp_path / "in", "train"), tmp_path / "voc", "yolo-obb", "voc", placing="copy")
    image(tmp_path / "voc/train/SegmentationClass/a.png")
    found = FORMATS["voc"].read(tmp_path / "voc", None, Problems(strict=True))
    assert [p.file and p.file.parent.name for p in found.images] == ["JPEGImages"]
    assert found.unlabelled == []


@pytest.mark.parametrize(("value", "wanted"), [("false", 0), ("true", 1), (True, 1), (0, 0), (" 2 ", 2), ("1", 1), (2, 2)])
def test_words_for_difficulty(value: object, wanted: int) -> None:
    assert level(value) == wanted


@pytest.mark.parametrize("value", ["1       xyz", "3", -1, "9" * 5000, None, [1], 2.5])
def test_what_is_no_difficulty(value: object) -> None:
    with pytest.raises(Invalid) as refused:
        level(value)
    assert refused.value.expected == "a difficulty of 0, 1 or 2"


def test_tiles_of_the_devkit_leak_too(tmp_path: Path) -> None:
    for subset, place in (("train", 0), ("val", 824)):
        (tmp_path / subset / "labelTxt").mkdir(parents=True)
        (tmp_path / subset / f"labelTxt/P1__0.5__{place}___0.txt").write_text("1 1 9 1 9 9 1 9 ship 0\n")
        image(tmp_path / subset / f"images/P1__0.5__{place}___0.png", 10, 10 + place % 7)
    train, val = (FORMATS["dota"].read(tmp_path / subset, None, Problems(strict=True)) for subset in ("train", "val"))
    assert [finding.kind for finding in find_leaks(train, val)] == ["same scene in training and validation"]


def test_boxes_that_are_turned_elsewhere_are_refused(tmp_path: Path) -> None:
    """As exports of CVAT have them: an upright bbox, and its rotation among the attributes."""
    path = coco(tmp_path / "ann.json", "a.png", attributes={"rotation": 45.0})
    problems = Problems()
    assert FORMATS["coco"].read(path, None, problems).count == 0
    assert "attributes.rotation" in problems.first[0]
    assert FORMATS["coco"].read(coco(path, "a.png", attributes={"rotation": 0.0}), None, Problems(strict=True)).count == 1


def test_label_studio_scores(tmp_path: Path) -> None:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["ship"]}
    rows = [{"type": "rectanglelabels", "value": value, "original_width": 100, "original_height": 80} for _ in range(3)]
    rows[0]["score"], rows[1]["score"] = 0.9, 0.0
    task = {"data": {"image": "a.png"}, "predictions": [{"score": 0.0, "result": rows}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task, {"data": {"image": "b.png"}, "annotations": [{"result": rows}]}]))
    found = FORMATS["label-studio"].read(tmp_path / "tasks.json", None, Problems(strict=True)).images
    np.testing.assert_array_equal(found[0].scores, [0.9, 0.0, 0.0])
    np.testing.assert_array_equal(found[1].scores, [0.9, 0.0, np.nan])


@pytest.mark.parametrize("form", FORMATS)
def test_odd_names_and_sets_without_objects(form: str, tmp_path: Path) -> None:
    names = ("#x?.png", "%41.png", "A.png", "a b+ü.png")
    (tmp_path / "in/labelTxt").mkdir(parents=True)
    for at, name in enumerate(names):
        image(tmp_path / "in/images" / name, 50 + at)
        (tmp_path / "in/labelTxt" / f"{name[:-4]}.txt").write_text("")
    for objects in (0, len(names)):
        convert_labels(tmp_path / "in", tmp_path / "there", "dota", form, problems=Problems(strict=True), overwrite=True)
        done = convert_labels(tmp_path / "there", tmp_path / "back", form, "dota", problems=Problems(strict=True), overwrite=True)
        assert (done.images, done.objects, done.lost) == (len(names), objects, ())
        assert sorted(path.stem for path in (tmp_path / "back/labelTxt").iterdir()) == sorted(name[:-4] for name in names)
        for name in names:
            (tmp_path / "in/labelTxt" / f"{name[:-4]}.txt").write_text("10 10 40 10 40 30 10 30 ship 0\n")


def test_two_places_with_images_of_one_name(tmp_path: Path) -> None:
    for subset, side in (("train", 50), ("val", 60)):
        (tmp_path / subset / "labelTxt").mkdir(parents=True)
        (tmp_path / subset / "labelTxt/0001.txt").write_text("1 1 9 1 9 9 1 9 ship 0\n")
        image(tmp_path / subset / "images/0001.png", side)
    train, val = (FORMATS["dota"].read(tmp_path / subset, None, Problems(strict=True)) for subset in ("train", "val"))
    (finding,) = find_leaks(train, val)
    assert (finding.kind, finding.serious) == ("same name in training and validation", False)
    (tmp_path / "val/images/0001.png").write_bytes((tmp_path / "train/images/0001.png").read_bytes())
    assert "same image in training and validation" in {finding.kind for finding in find_leaks(train, val)}


def test_five_values_of_yolo_are_said(tmp_path: Path, cli: Callable) -> None:
    """They are read as upright boxes, which most objects of an oriented data set are not."""
    root = draw_dataset(tmp_path / "dota", 1)
    assert cli("labels", "convert", root, tmp_path / "yolo", "--from", "dota", "--to", "yolo-obb").code == 0
    label = next((tmp_path / "yolo/labels").rglob("*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.2 0.1\n")
    done = cli("labels", "convert", tmp_path / "yolo", tmp_path / "back", "--from", "yolo-obb", "--to", "dota")
    assert "note: 1 line of five values" in done.err


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
