"""Scenes by address: local paths, and whatever fsspec reaches (s3://, gs://, https:// ...)."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rotanext.errors import UserError, explain, extra
from rotanext.images.raster import Raster, RasterOptions
from rotanext.images.scenes import SCENE_SUFFIXES, FileScene, is_raster, open_scene

# A read that does not follow the one before takes this much more: headers come at once, and blocks of pixels hardly grow.
_AHEAD = 1 << 15


def is_remote(address: str) -> bool:
    """Whether an address is a URL rather than a path of this machine."""
    return "://" in address


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address and the path within it; raises UserError where there is none of that kind."""
    with extra("ray", address):
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(address)
        except ValueError as error:
            raise UserError(
                explain(address, str(error), "an address that fsspec knows", "Check it, as in s3://bucket/a.tif.")
            ) from None


@contextmanager
def answering(address: str, doing: str) -> Iterator[None]:
    """Turns what file systems raise (each its own kind) into a UserError that names the address."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(explain(address, "nothing there", "a file or folder", "Check the address.")) from None
    except Exception as error:
        found = f"that it cannot be {doing} ({describe(error)})"
        advice = "Check address, network and credentials."
        raise UserError(explain(address, found, "an answer from its storage", advice)) from error


def describe(error: BaseException) -> str:
    """An exception in one line; a UserError by its message alone."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def list_scenes(source: str) -> list[str]:
    """Addresses of the images and rasters that `source` names, each once.

    A file; a folder or prefix with all that lies below it; a glob (`**` for folders of any depth); or a `.txt` list with an
    address a line (`#` starts a comment), which keeps its order and is not checked. Local paths come out absolute, as workers run
    elsewhere. Raises UserError where nothing is found, or the storage does not answer.
    """
    if source.lower().endswith(".txt"):
        return _read_list(source)
    files, path = file_system(source)
    with answering(source, "listed"):
        if any(mark in source for mark in "*?[") and not files.exists(path):
            found = files.glob(path)
        elif files.isfile(path):
            return [_address(files, path, source)]
        else:
            found = files.find(path)
    kept = sorted(_address(files, name, source) for name in found if _is_scene(str(name)))
    if not kept:
        expected = f"files ending in {' '.join(SCENE_SUFFIXES)}"
        raise UserError(explain(source, "no scenes", expected, "Check the address; a glob goes in quotation marks."))
    return kept


def _read_list(source: str) -> list[str]:
    files, path = file_system(source)
    with answering(source, "read"):
        data = files.cat_file(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(explain(source, "text that is not UTF-8", "one address per line", "Save it as UTF-8.", line)) from None
    lines = (line.split("#")[0].strip() if line.lstrip().startswith("#") else line.strip() for line in text.splitlines())
    found = [line if is_remote(line) else os.path.abspath(line) for line in lines if line]  # noqa: PTH100  (no links followed)
    if not found:
        raise UserError(explain(source, "an empty list", "one address per line", "Write one scene's address on each line."))
    return list(dict.fromkeys(found))


def _is_scene(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SCENE_SUFFIXES and not path.name.startswith(".")


def _address(files: Any, path: str, source: str) -> str:
    return str(files.unstrip_protocol(path)) if is_remote(source) else os.path.abspath(path)  # noqa: PTH100


@dataclass(frozen=True)
class Ranges:
    """Opens one address for rasterio, so that GDAL reads ranges of bytes; files beside it (.ovr, .aux.xml) are not looked for."""

    address: str

    def __call__(self, path: str, mode: str = "rb") -> Any:
        """The open file; FileNotFoundError for any other path, of which GDAL tries dozens."""
        if path != self.address:
            raise FileNotFoundError(path)
        files, inner = file_system(path)
        return _Handle(files.open(inner, "rb", block_size=_AHEAD, cache_type="readahead"))


class _Handle:
    """An open file that equals only itself: rasterio keeps them in a dict, and fsspec's of one address are all equal."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def __enter__(self) -> "_Handle":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def open_address(address: str, options: RasterOptions) -> FileScene:
    """The scene at an address: of remote rasters only ranges are read, other remote images come as a whole.

    Raises UserError like `scenes.open_scene`, and where the storage does not answer.
    """
    if not is_remote(address):
        return open_scene(Path(address), options)
    files, path = file_system(address)
    if is_raster(address):
        with answering(address, "opened"):
            files.info(path)  # GDAL would not say why it cannot open
        return Raster(address, options, Ranges(address))
    folder = tempfile.TemporaryDirectory(prefix="rotanext-")
    copy = Path(folder.name) / PurePosixPath(path).name
    try:
        with answering(address, "read"):
            files.get_file(path, str(copy))
        scene = open_scene(copy, options)
    except UserError as error:
        folder.cleanup()
        raise UserError(str(error).replace(str(copy), address)) from None
    weakref.finalize(scene, folder.cleanup)  # of a huge image, read in windows, threads open the copy again
    return scene
