"""Windows of rasters of any size as uint8 RGB: GeoTIFF, COG, JPEG 2000, VRT and whatever else GDAL reads (extra `geo`)."""

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from rotanext.errors import UserError, explain, first_line
from rotanext.geo.georeference import Georeference
from rotanext.system.gdal import load_rasterio

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k", ".vrt")
CACHE_MEGABYTES = 96  # of decoded blocks, GDAL's for the whole process
_SAMPLE = 1024  # pixels a side that percentiles are measured on
_STRIP = 256  # rows that are stretched or shrunk at a time
_BAND = 256 << 20  # bytes of whole rows that are kept of a raster in strips
_SAMPLED_BLOCK = 64  # a raster without overviews is sampled in blocks of this size
_NOTHING: tuple[np.ndarray, np.ndarray | None] = (np.zeros((0, 0, 0)), None)


@dataclass(frozen=True)
class RasterOptions:
    """How the values of a raster become red, green and blue.

    bands: one or three numbers from 1; None takes the first three, or the only one, or a palette's colours. stretch: "auto",
    "full" (the type's whole range), "LOW:HIGH" (values) or "LOW%:HIGH%" (percentiles). "auto" leaves 8 bit alone, takes "full"
    for 16 bit unsigned, as images are read for training, and "2%:98%" for the rest.
    """

    bands: tuple[int, ...] | None = None
    stretch: str = "auto"


@dataclass(frozen=True)
class Stretch:
    """Which values of each band become 0 and 255; `text` says it to the user."""

    low: np.ndarray
    high: np.ndarray
    text: str

    def apply(self, values: np.ndarray) -> np.ndarray:
        """`[bands, H, W]` of any type as uint8; what is not a number becomes 0."""
        if values.dtype.kind in "iu" and values.dtype.itemsize <= 2 and values.shape[1] * values.shape[2] > 1 << 16:
            every = np.arange(np.iinfo(values.dtype).min, np.iinfo(values.dtype).max + 1).astype(values.dtype)
            table = self.apply(np.broadcast_to(every[:, None], (len(values), len(every), 1)))[..., 0]
            index = values.view(f"u{values.dtype.itemsize}")
            order = np.argsort(every.view(index.dtype))
            return np.stack([table[band][order][index[band]] for band in range(len(values))])
        factor = 255 / np.maximum(self.high - self.low, 1e-12)
        out = np.empty(values.shape, np.uint8)
        for band in range(len(values)):
            for y in range(0, values.shape[1], _STRIP):  # so that little is held in float64
                scaled = (values[band, y : y + _STRIP].astype(np.float64) - self.low[band]) * factor[band]
                np.nan_to_num(scaled.round(out=scaled), copy=False, nan=0.0)
                out[band, y : y + _STRIP] = scaled.clip(0, 255, out=scaled)
        return out


class Raster:
    """An open raster: a scene (see images/scenes.py) that is read in windows, by any number of threads. Use it in a `with`.

    Values become colours as `RasterOptions` says; alpha is dropped and pixels without data keep their stored values, both as in
    training. `opener` (see `rasterio.open`) reads the bytes in GDAL's place, of an object store for example; `driver` is the
    only one of GDAL's that may read it. Raises UserError for what does not open, bands it does not have, a stretch that makes no
    sense, and a window that cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        options: RasterOptions = RasterOptions(),
        opener: Callable[..., Any] | None = None,
        driver: str | None = None,
    ) -> None:
        self.path, self._opener, self._driver = path, opener, driver
        self._lock, self._free, self._closed = threading.Lock(), list[tuple[Any, Context]](), False
        self._band_lock, self._band = threading.Lock(), ((0, 0), _NOTHING)
        self._stretch_lock = threading.Lock()
        with _refusing(path, "a header that cannot be read", "a raster that GDAL reads", "Check the file."):
            try:
                with self._handle() as (file, context):
                    context.run(self._describe, file, options)
            except BaseException:
                self.close()
                raise

    def _describe(self, file: Any, options: RasterOptions) -> None:
        """Note what the header says."""
        self.width, self.height, self._count = int(file.width), int(file.height), int(file.count)
        self._palette = _palette(file)
        self.bands = self._chosen(file, options.bands)
        self._kind = np.dtype(file.dtypes[self.bands[0] - 1])
        self._bits = int(file.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
        self._white_is_0 = file.tags(1, ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"  # GDAL leaves that to us
        self._all_valid = all(flags[0].name == "all_valid" for flags in file.mask_flag_enums)
        self._has_overviews = bool(file.overviews(1))
        self._in_strips = file.block_shapes[0][1] >= self.width
        self.claims_place = Georeference.claimed(file)
        self._found = self._find_stretch(options.stretch)

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what a thread still reads is closed after it."""
        with self._lock:
            self._closed, handles = True, self._free
            self._free = []
        for file, context in handles:
            context.run(file.close)
        self._band = ((0, 0), _NOTHING)

    @contextmanager
    def _handle(self) -> Iterator[tuple[Any, Context]]:
        """An open file that no other thread uses at the same time, as GDAL's may not be shared; and the context to use it in.

        rasterio keeps what belongs to an `opener` in context variables.
        """
        with self._lock:
            handle = self._free.pop() if self._free else None
        if handle is None:
            context = copy_context()
            handle = (context.run(self._open), context)
        try:
            yield handle
        finally:
            with self._lock:
                if not self._closed:
                    self._free.append(handle)
            if self._closed:
                handle[1].run(handle[0].close)

    def _open(self) -> Any:
        with _refusing(self.path, "that it does not open", "a raster that GDAL reads", "Check the file."):
            file = load_rasterio().open(self.path, driver=self._driver, opener=self._opener)
        if not file.count:
            file.close()
            raise UserError(explain(self.path, "no bands", "a raster with pixels", "Name one of its subdatasets."))
        return file

    def read(self, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Scene.read`.

        Of a raster in strips, whose every window costs whole rows, these are kept for the windows beside it.
        """
        if not (self._in_strips and 2 * width <= self.width and self._row_bytes() * height <= _BAND):
            values, valid = self._values(window=(x, y, width, height))
            return self._to_rgb(values), valid
        with self._band_lock:
            if self._band[0] != (y, height):
                self._band = ((0, 0), _NOTHING)
                self._band = ((y, height), self._values(window=(0, y, self.width, height)))
            values, valid = self._band[1]
        columns = slice(x, x + width)
        part = None if valid is None else np.ascontiguousarray(valid[:, columns])
        return self._to_rgb(values[:, :, columns]), None if part is None or part.all() else part

    def _row_bytes(self) -> int:
        return self.width * len(self.bands) * self._kind.itemsize

    def overview(self, size: int) -> np.ndarray:
        """See `Scene.overview`; from the file's own overviews where it has any, some rows at a time, as values may be wide."""
        height, width = self._shrunk(size)
        rows = self.height / height  # of the raster, to one of the overview
        out = np.empty((height, width, 3), np.uint8)
        for y in range(0, height, _STRIP):
            strip = out[y : y + _STRIP]
            window = (0, y * rows, self.width, len(strip) * rows)
            strip[:] = self._to_rgb(self._values(window, strip.shape[:2], averaged=self._palette is None)[0])
        return out

    def georeference(self) -> Georeference | None:
        """See `FileScene.georeference`."""
        with self._handle() as (file, context):
            return context.run(Georeference.of, file)

    def _shrunk(self, size: int) -> tuple[int, int]:
        shrink = max(1.0, self.width / size, self.height / size)
        return max(1, round(self.height / shrink)), max(1, round(self.width / shrink))

    def _values(
        self, window: tuple[float, float, float, float] | None = None, shape: tuple[int, int] | None = None, averaged: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Stored values `[bands, h, w]` of a window (x, y, width, height), or of all in another shape, and which pixels hold data.

        Shrinking takes nearest values, or their average. None stands for data everywhere.
        """
        rasterio = load_rasterio()
        where = None if window is None else rasterio.windows.Window(*window)
        valid: np.ndarray | None = None
        with _refusing(self.path, "a part that cannot be read", "a complete raster", "Copy or download it again."):
            resampling = rasterio.enums.Resampling.average if averaged else rasterio.enums.Resampling.nearest
            size = None if shape is None else (len(self.bands), *shape)
            with self._handle() as (file, context):
                values = context.run(file.read, list(self.bands), window=where, out_shape=size, resampling=resampling)
                if not self._all_valid:
                    valid = context.run(file.dataset_mask, window=where, out_shape=shape) > 0
        if values.dtype.kind == "c":
            found = f"complex values ({values.dtype})"
            raise UserError(explain(self.path, found, "real ones", "Compute their magnitude first."))
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(0)
            valid = finite if valid is None else valid & finite
        return values, None if valid is None or valid.all() else valid

    def _to_rgb(self, values: np.ndarray) -> np.ndarray:
        if self._palette is not None:
            return self._palette[np.minimum(values[0], len(self._palette) - 1)]
        stretch = self._stretch()
        image = values if stretch is None else stretch.apply(values)
        if self._white_is_0:
            image = 255 - image
        return cv2.merge([image[0], image[len(image) // 2], image[-1]])  # NumPy's copy takes twenty times as long

    @property
    def how(self) -> str:
        """What its colours come from, in words."""
        found = self._stretch()
        colours = "palette" if self._palette is not None else f"band {', '.join(map(str, self.bands))} of {self._count}"
        values = "as stored" if found is None else f"stretched from {found.text}"
        return f"{colours}, {self._kind} {values}{', 0 is white' * self._white_is_0}"

    def _stretch(self) -> Stretch | None:
        """The stretch, whose percentiles are measured when the first colours are wanted."""
        with self._stretch_lock:
            if isinstance(self._found, tuple):
                first, last = self._found
                low, high = self._percentiles(first, last)
                text = ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))
                self._found = Stretch(low, high, f"{text} (percentiles {first:g} and {last:g} of a sample)")
            return self._found

    def _chosen(self, file: Any, bands: tuple[int, ...] | None) -> tuple[int, ...]:
        found = [k for k, kind in enumerate(file.colorinterp, 1) if kind.name != "alpha"] or [1]
        if bands is None:
            return tuple(found[:3]) if len(found) >= 3 else tuple(found[:1])
        if len(bands) not in (1, 3) or not all(1 <= band <= file.count for band in bands):
            expected = f"one or three numbers from 1 to {file.count}"
            raise UserError(explain(self.path, f"no bands {', '.join(map(str, bands))}", expected, "Change --bands."))
        return bands

    def _find_stretch(self, wanted: str) -> Stretch | tuple[float, float] | None:
        """A stretch, the percentiles that make one, or None where values are colours."""
        kind, bits = self._kind, self._bits
        if wanted == "auto" and kind == np.uint8 and bits < 8 and self._palette is None:
            return self._fixed(0, 2**bits - 1, f", all that {bits} bits hold")
        if wanted == "auto":
            wanted = {"uint8": "none", "uint16": "full"}.get(kind.name, "2%:98%")
        if self._palette is not None or wanted == "none" or (wanted == "full" and kind == np.uint8):
            return None
        if wanted == "full":
            if kind.kind not in "iu":
                found, expected = f"values of type {kind}", "whole numbers for the stretch 'full'"
                raise UserError(explain(self.path, found, expected, "Give values, as in --stretch 0:1."))
            limits = np.iinfo(kind)
            return self._fixed(float(limits.min), float(limits.max), f", the whole range of {kind}")
        first, last, percent = parse_stretch(wanted)
        return (first, last) if percent else self._fixed(first, last, "")

    def _fixed(self, low: float, high: float, remark: str) -> Stretch:
        bands = len(self.bands)
        return Stretch(np.full(bands, low), np.full(bands, high), f"{low:g} to {high:g}{remark}")

    def _percentiles(self, first: float, last: float) -> tuple[np.ndarray, np.ndarray]:
        """The bands' percentiles over pixels with data: of an overview where there is one, otherwise of blocks all over."""
        if self._has_overviews or max(self.width, self.height) <= 4 * _SAMPLE:
            parts = [self._values(shape=self._shrunk(_SAMPLE))]
        else:
            block = (min(_SAMPLED_BLOCK, self.width), min(_SAMPLED_BLOCK, self.height))
            xs, ys = (
                np.linspace(0, a - b, _SAMPLE // _SAMPLED_BLOCK) for a, b in zip((self.width, self.height), block, strict=True)
            )
            parts = [self._values(window=(int(x), int(y), *block)) for y in ys for x in xs]
        held = [values.reshape(len(values), -1) if valid is None else values[:, valid] for values, valid in parts]
        pixels = np.concatenate(held, 1).astype(np.float64)
        if not pixels.size:
            return np.zeros(len(pixels)), np.ones(len(pixels))
        low, high = np.percentile(pixels, [first, last], axis=1)
        return low, high


def raster_options(bands: str | None, stretch: str) -> RasterOptions:
    """Options from the command line's texts; raises UserError for what they cannot mean."""
    if stretch not in ("auto", "full"):
        parse_stretch(stretch)
    if bands is None:
        return RasterOptions(None, stretch)
    numbers = bands.split(",")
    if len(numbers) not in (1, 3) or not all(number.strip().isdecimal() and int(number) for number in numbers):
        raise UserError(f"--bands is '{bands}'; expected one or three numbers from 1, with commas between, as in 4,3,2")
    return RasterOptions(tuple(map(int, numbers)), stretch)


def parse_stretch(text: str) -> tuple[float, float, bool]:
    """Low, high and whether they are percentiles, from "LOW:HIGH" or "LOW%:HIGH%"; raises UserError for anything else."""
    parts = text.split(":")
    percent = all(part.endswith("%") for part in parts)
    try:
        low, high = (float(part.removesuffix("%") if percent else part) for part in parts)
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (percent and not 0 <= low < high <= 100):
        raise UserError(f"stretch is '{text}'; expected auto, full, LOW:HIGH (values) or LOW%:HIGH% (percentiles)")
    return low, high, percent


def _palette(file: Any) -> np.ndarray | None:
    """The colours `[256 or more, 3]` of a raster whose only band is a palette's."""
    if file.count != 1 or file.colorinterp[0].name != "palette" or np.dtype(file.dtypes[0]).kind != "u":
        return None
    colours = file.colormap(1)
    table = np.zeros((max(colours) + 1, 3), np.uint8)
    for index, colour in colours.items():
        table[index] = colour[:3]
    return table


@contextmanager
def _refusing(path: str | Path, found: str, expected: str, advice: str) -> Iterator[None]:
    """Turns what rasterio and GDAL raise about a file into a UserError that says why."""
    rasterio = load_rasterio()
    kinds = (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError, OSError, ValueError, TypeError, MemoryError)
    try:
        yield
    except kinds as error:
        cause = error.__cause__ or error  # rasterio hides GDAL's reason behind "Read failed"
        why = re.sub(r"/vsiriopener_[0-9a-f]+/", "", first_line(cause))
        raise UserError(explain(path, f"{found} ({why})", expected, advice)) from None


def settings() -> Any:
    """A context in which GDAL keeps few decoded blocks and runs no code from files."""
    return load_rasterio().Env(GDAL_CACHEMAX=CACHE_MEGABYTES, GDAL_VRT_ENABLE_PYTHON="NO")
