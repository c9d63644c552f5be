"""Scenes by address: lists, globs, folders and object stores."""

from pathlib import Path

import numpy as np
import pytest

from archives import write_raster
from rotanext.archive.addresses import Ranges, answering, describe, is_remote, list_scenes, open_address
from rotanext.errors import UserError
from rotanext.images.raster import Raster, RasterOptions
from rotanext.images.reading import write_png


def test_of_a_remote_raster_only_ranges_are_read(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    image = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3)).astype(np.uint8)
    path = write_raster(tmp_path / "large.tif", image, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    s3fs.S3FileSystem().mkdir("large")
    s3fs.S3FileSystem().put_file(str(path), "large/large.tif")
    read: list[int] = []
    fetch = s3fs.core.S3File._fetch_range
    monkeypatch.setattr(
        s3fs.core.S3File, "_fetch_range", lambda self, start, end: (read.append(end - start), fetch(self, start, end))[1]
    )
    scene = open_address("s3://large/large.tif", RasterOptions())
    assert isinstance(scene, Raster)
    opened = sum(read)
    crop, _ = scene.read(300, 700, 200, 300)
    scene.close()
    np.testing.assert_array_equal(crop, image[700:1000, 300:500])
    assert 0 < opened < 100_000
    assert sum(read) < 0.1 * path.stat().st_size  # 2 of 64 blocks, and a little after each
    assert len(read) <= 5
    with pytest.raises(UserError, match=r"s3://large/none\.tif: found nothing there"):
        open_address("s3://large/none.tif", RasterOptions())
    with pytest.raises(FileNotFoundError):
        Ranges("s3://large/large.tif")("s3://large/large.tif.ovr")


def test_scenes_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a.tif", "B.TIF", "deep/er/c.png", "deep/d.jp2", "deep/.e.tif", "notes.md", "[1].tif")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def found(source: object) -> list[str]:
        return [str(Path(address).relative_to(tmp_path)) for address in list_scenes(str(source))]

    below = ["B.TIF", "[1].tif", "a.tif", "deep/d.jp2", "deep/er/c.png"]
    assert found(tmp_path) == found(".") == below
    assert found("*.tif") == ["[1].tif", "a.tif"]
    assert found("**/*.jp2") == ["deep/d.jp2"]
    assert found("[1].tif") == ["[1].tif"]
    assert found("a.tif") == ["a.tif"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# scenes\r\na.tif\r\n\n  gone.tif \na.tif\ns3://bucket/x#1.tif\n")
    assert list_scenes("list.txt") == [str(tmp_path / "a.tif"), str(tmp_path / "gone.tif"), "s3://bucket/x#1.tif"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for source, message in (
        ("none", "none: found no scenes"),
        ("*.jpg", r"\*\.jpg: found no scenes"),
        ("empty.txt", "found an empty list"),
        ("nothing://a", "nothing://a: found .*nothing"),
    ):
        with pytest.raises(UserError, match=message):
            list_scenes(source)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (FileNotFoundError("x"), r"^s3://b/a: found nothing there; expected a file or folder"),
        (PermissionError("Access\nDenied"), r"found that it cannot be read \(PermissionError: Access\); expected an answer"),
        (KeyError("key"), r"\(KeyError: 'key'\)"),
        (UserError("as it was"), r"^as it was$"),
    ],
    ids=["missing", "refused", "of any kind", "one of ours"],
)
def test_what_storages_raise_becomes_one_message(raised: Exception, message: str) -> None:
    with pytest.raises(UserError, match=message), answering("s3://b/a", "read"):
        raise raised


def test_an_exception_in_one_line() -> None:
    assert describe(ValueError("a\nb")) == "ValueError: a"
    assert describe(ValueError()) == "ValueError: "
    assert describe(UserError("a\nb")) == "a"


@pytest.mark.parametrize(("address", "remote"), [("s3://b/a.tif", True), ("/data/a.tif", False), ("a:b.tif", False)])
def test_urls_and_paths(address: str, remote: bool) -> None:
    assert is_remote(address) == remote


def test_a_list_that_is_no_text_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.tif\n\xff.tif\n")
    with pytest.raises(UserError, match=r"list\.txt:2: found text that is not UTF-8"):
        list_scenes(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_remote_scenes_have_the_pixels_of_local_ones(name: str, tmp_path: Path) -> None:
    """Through fsspec's memory: an image is fetched as a whole, a raster in ranges."""
    fsspec = pytest.importorskip("fsspec")
    image = np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    if name.endswith("png"):
        write_png(tmp_path / name, image)
    else:
        write_raster(tmp_path / name, image)
    folder = f"memory://{tmp_path.name}"
    files, path = fsspec.url_to_fs(folder)
    files.pipe_file(f"{path}/{name}", (tmp_path / name).read_bytes())
    files.pipe_file(f"{path}/notes.md", b"no scene")
    (address,) = list_scenes(folder)
    scene = open_address(address, RasterOptions())
    crop, _ = scene.read(5, 7, 20, 30)
    scene.close()
    np.testing.assert_array_equal(crop, image[7:37, 5:25])


def test_a_remote_image_that_does_not_open_is_named_by_its_address() -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe_file("/archive/bad.png", b"no image")
    with pytest.raises(UserError, match=r"^memory://archive/bad\.png: found"):
        open_address("memory://archive/bad.png", RasterOptions())
