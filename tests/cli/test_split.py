"""`rotanext split`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tiny import draw_dataset


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rates", "1.0,x"), "--rates is '1.0,x'; expected numbers with commas between"),
        (("--rates", ""), "--rates is ''"),
        (("--rates", "0"), "one or more numbers above 0"),
        (("--rates", "nan"), "one or more numbers above 0"),
        (("--size", "0"), "at least 1 pixel"),
        (("--overlap", "40"), "less than the size 40"),
        (("--size", "big"), "--size"),
    ],
)
def test_splits_that_cannot_be(options: tuple[str, ...], message: str, cli: Callable, tiny_dataset: Path, tmp_path: Path) -> None:
    done = cli("split", tiny_dataset / "train", tmp_path / "tiles", "--size", 40, "--overlap", 10, "--workers", 1, *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "tiles").exists()


def test_a_split(cli: Callable, tiny_dataset: Path, tmp_path: Path) -> None:
    arguments = (
        "split",
        tiny_dataset / "train",
        tmp_path / "tiles",
        "--size",
        40,
        "--overlap",
        10,
        "--rates",
        "0.5, 1.0",
        "--workers",
        1,
    )
    done = cli(*arguments)
    assert done.code == 0, done.err
    assert "tiles of 4 images, " in done.err
    assert f"{tmp_path / 'tiles'}\n" in done.err
    tiles = sorted(path.stem for path in (tmp_path / "tiles/images").iterdir())
    assert tiles == sorted(path.stem for path in (tmp_path / "tiles/labelTxt").iterdir())
    assert "p0__40__24___24" in tiles
    again = cli(*arguments)
    assert again.code == 2
    assert "found files in the target; expected a new or empty folder" in again.err
    assert cli(*arguments, "--overwrite").code == 0
    (tmp_path / "cut").mkdir()
    root = draw_dataset(tmp_path / "cut/data", 2)
    (root / "images/p0.png").write_bytes(b"x")
    done = cli("split", root, tmp_path / "rest", "--workers", 1)
    assert done.code == 1
    assert "Skipped 1 invalid item (" in done.err
    assert cli("split", root, tmp_path / "strict", "--workers", 1, "--strict").code == 2
