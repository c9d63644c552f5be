"""The libraries of the extra `geo`, imported where they are used, so that the core runs without them."""

from collections.abc import Iterator
from contextlib import contextmanager

from rotanext.errors import UserError, explain


@contextmanager
def geo_extra(purpose: str) -> Iterator[None]:
    """Wraps the lazy imports of rasterio, pyproj, shapely, geopandas and pyogrio; `UserError` where one is missing."""
    try:
        yield
    except ImportError as error:
        found = f"that {error.name or 'a library'} cannot be imported ({error})"
        advice = "Run: pip install 'rotanext[geo]'"
        raise UserError(explain(purpose, found, "the libraries of the extra `geo`", advice)) from error
