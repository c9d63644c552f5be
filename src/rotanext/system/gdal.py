"""Rasterio (GDAL) is imported here and nowhere else, once, whichever thread asks first."""

import importlib
import threading
import warnings
from typing import Any

from rotanext.errors import extra

_lock = threading.Lock()
_loaded: list[Any] = []


def load_rasterio(purpose: str = "a raster") -> Any:
    """The module rasterio with its parts `_err`, `enums`, `errors`, `windows`; `UserError` where it is not installed.

    Two threads that import it at once could each see it half made: Python attaches a submodule to its package only after other
    threads may already find it loaded.
    """
    with _lock:
        if not _loaded:
            with extra("geo", purpose):
                rasterio = importlib.import_module("rasterio")
                for part in ("_err", "enums", "errors", "windows"):
                    importlib.import_module(f"rasterio.{part}")
            # most images are not georeferenced; the filters of warnings are shared by all threads
            warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
            _loaded.append(rasterio)
        return _loaded[0]
