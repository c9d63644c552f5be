"""What the compiled operators share: numba's files and what is left where they are damaged, and what is said of compiling."""

import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numba
import pytest
from numba.core import caching

from rotanext.ops import cpu, cpu_nms, jit


@pytest.mark.slow
def test_a_damaged_cache_is_done_without(tmp_path: Path) -> None:
    """numba's cache files are emptied, as after a power loss; a fresh process still computes."""
    code = "import torch; from rotanext.ops import rotated_nms; print(rotated_nms(torch.ones(2, 5), torch.rand(2)).shape)"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "torch.Size([1])", done.stderr
        files = list(tmp_path.rglob("*.nbi"))
        assert files
        for path in files:
            path.write_bytes(b"")


def more(x: int) -> int:
    return x + 1


def computed(function: Callable[[int], int] = more) -> int:
    """How many functions a new process's kernel had to compile to give the right result."""
    before = len(jit.compiled)
    assert jit.jit(function)(1) == 2
    return len(jit.compiled) - before


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where numba keeps its files."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(jit.CACHE, raising=False)
    return tmp_path


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle", None], ids=["empty", "cut", "other", "half"])
def test_damaged_files_are_replaced(folder: Path, kind: str, content: bytes | None) -> None:
    assert computed() == 1
    assert computed() == 0
    (path,) = folder.rglob(f"*.{kind}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    assert computed() == 1
    assert computed() == 0


def test_a_full_disk_and_a_folder_that_vanished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(caching.IndexDataCacheFile, "_save_index", full)
        assert [computed(), computed()] == [1, 1]
    assert [computed(), computed()] == [1, 0]
    (path,) = folder.rglob("*.nbi")
    path.write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(caching.IndexDataCacheFile, "_save_index", full)
        assert [computed(), computed()] == [1, 1]
    assert [computed(), computed()] == [1, 0]


def test_without_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jit.CACHE, "0")
    assert [computed(), computed()] == [1, 1]
    assert not list(folder.rglob("*"))


def test_compiling_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(jit, "_WORTH_A_NOTE", 0.0)
    kernel = jit.jit(more)

    @jit.operator
    def iou_matrix(x: int) -> int:
        return kernel(x)  # type: ignore[no-any-return]

    with caplog.at_level(logging.WARNING, "rotanext"):
        assert cpu.warm_up() > 0
        caplog.clear()
        assert cpu.warm_up() > 0  # all there
        assert [iou_matrix(1), iou_matrix(2)] == [2, 3]
    assert [record.message.split(" for ")[0] for record in caplog.records] == ["compiled the operator iou_matrix"]


def test_short_compiling_is_not(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel = jit.jit(more)
    with caplog.at_level(logging.WARNING, "rotanext"):
        assert jit.operator(lambda x: kernel(x))(1) == 2
    assert not caplog.records


def test_a_call_costs_little() -> None:
    """Less than a tenth of counting what every kernel of a module has compiled, before and after, which each call did once."""

    def nothing() -> None:
        return None

    def counted() -> Any:
        for _ in range(2):
            found = sum(sum(f.stats.cache_misses.values()) for f in vars(cpu_nms).values() if hasattr(f, "stats"))
        return found

    def seconds(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in range(100):
            function()
        return time.perf_counter() - start

    wrapped = jit.operator(nothing)
    times = [(seconds(wrapped), seconds(counted)) for _ in range(15)]
    assert median(new for new, _ in times) < 0.1 * median(old for _, old in times)
