"""Rasterio is imported by one thread, while the others wait."""

import importlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rotanext.errors import UserError
from rotanext.system.gdal import load_rasterio


def test_one_thread_imports_and_all_get_a_whole_module(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = [], 0
    load = importlib.import_module

    def slowly(name: str) -> Any:
        nonlocal most
        inside.append(threading.get_ident())
        most = max(most, len(set(inside)))
        time.sleep(0.02)
        inside.pop()
        return load(name)

    monkeypatch.setattr("rotanext.system.gdal._loaded", [])
    monkeypatch.setattr(importlib, "import_module", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_rasterio(), range(8)))
    assert most == 1
    assert len({id(module) for module in found}) == 1
    assert found[0].errors.RasterioError
    assert found[0].windows.Window


def test_without_rasterio_the_extra_is_named_beside_the_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotanext.system.gdal._loaded", [])
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.raises(UserError, match=r"a\.tif.*pip install 'rotanext\[geo\]'"):
        load_rasterio("a.tif")
