"""The way out of the folders that people give by mistake."""

from pathlib import Path

import pytest

from rotanext.data.dota import list_items
from rotanext.data.folder_advice import folder_advice, looks_like_yolo
from rotanext.errors import Problems, UserError
from tiny import draw_dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """mydata with train and val, and beside it the same as YOLO has it."""
    draw_dataset(tmp_path / "mydata/train", 1)
    draw_dataset(tmp_path / "mydata/val", 1)
    (tmp_path / "yolo/labels/train").mkdir(parents=True)
    (tmp_path / "flat/labels").mkdir(parents=True)
    (tmp_path / "yolo/inner/train/labels").mkdir(parents=True)
    (tmp_path / "yolo/inner/data.yaml").touch()
    (tmp_path / "yolo/inner/train/labels/a.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n")
    (tmp_path / "flat/labels/a.txt").touch()
    (tmp_path / "flat/labels/b.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n")
    (tmp_path / "v1/labelTxt-v1.0").mkdir(parents=True)
    (tmp_path / "v1/images").mkdir()
    (tmp_path / "v1/images_old").mkdir()
    (tmp_path / "v1/images/a.png").touch()
    (tmp_path / "file.txt").touch()
    (tmp_path / "none").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("mydata", "Did you mean {tmp}/mydata/train or {tmp}/mydata/val?"),
        ("mydata/trains", "Did you mean {tmp}/mydata/train?"),
        ("mydata/train/images", "Give the folder above: {tmp}/mydata/train."),
        ("yolo", "rotanext labels convert {tmp}/yolo NEW_FOLDER --from yolo-obb --to dota"),
        ("flat", "rotanext labels convert {tmp}/flat NEW_FOLDER --from yolo-obb --to dota"),
        ("yolo/inner/train", "rotanext labels convert {tmp}/yolo/inner NEW_FOLDER --from yolo-obb --to dota"),
        ("v1", "Rename labelTxt-v1.0 to labelTxt?"),
        ("file.txt", "This is a file. A data set is a folder with images/ and labelTxt/."),
        ("none", "A data set is a folder with images/ and labelTxt/."),
        ("nowhere/at/all", "Check the path."),
    ],
)
def test_advice(data: Path, given: str, advice: str) -> None:
    said = folder_advice(data / given)
    assert said.endswith(advice.format(tmp=data))
    with pytest.raises(UserError) as error:
        list_items(data / given, Problems())
    assert said in str(error.value)


def test_dota_is_not_taken_for_yolo(data: Path) -> None:
    assert not looks_like_yolo(data / "mydata/train")
    (data / "mydata/train/labelTxt").rename(data / "mydata/train/labels")
    assert not looks_like_yolo(data / "mydata/train"), "numbers of pixels are no fractions"
    assert folder_advice(data / "mydata/train") == "Rename labels to labelTxt?"


def test_labels_check_of_a_yolo_folder_tells_the_way(data: Path, cli: object) -> None:
    done = cli("labels", "check", data / "flat")  # type: ignore[operator]
    assert done.code == 2
    assert "--from yolo-obb" in done.err
