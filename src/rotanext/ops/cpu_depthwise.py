"""The weights' gradient of a depthwise convolution on the CPU; torch's own takes up to four times as long
(`benchmarks/operators.py`)."""

import numpy as np
import torch
from torch import Tensor

from rotanext.ops.jit import in_parts, jit, operator

_COLUMN_NUMBERS = 512  # numbers of a row that are taken at once, so that the sums of all taps stay in the cache
_ROWS = 16  # likewise
_NUMBERS_A_PAIR = 512  # products that cost as much as what `in_parts` counts in; fewer are not worth waking threads for


@jit
def _sum_products(x: np.ndarray, gradient: np.ndarray, columns: int, first: int, last: int, out: np.ndarray) -> None:
    """Sums of gradient times shifted x, both `[B, H, W, C]`, over bands of `columns` columns, into `out [bands, K, K, C]`.

    Products are summed position by position first, which is one long addition a row whatever the number of channels; the
    positions of a band last.
    """
    batch, height, width, channels = x.shape
    size = out.shape[1]
    reach = size // 2
    rows, row_gradients = x.reshape(batch * height, width * channels), gradient.reshape(batch * height, width * channels)
    bands = -(-width // columns)
    sums = np.zeros((size * size, columns * channels), np.float32)
    for band in range(first, last):
        image, start = band // bands, band % bands * columns
        end = min(width, start + columns)
        sums[:] = np.float32(0)
        for top in range(0, height, _ROWS):
            for tap in range(size * size):
                down, right = tap // size - reach, tap % size - reach
                left, stop = max(start, -right), min(end, width - right)
                if left >= stop:
                    continue
                count = (stop - left) * channels
                total = sums[tap, (left - start) * channels : (stop - start) * channels]
                for y in range(max(top, -down), min(top + _ROWS, height, height - down)):
                    line = row_gradients[image * height + y, left * channels : stop * channels]
                    shifted = rows[image * height + y + down, (left + right) * channels : (stop + right) * channels]
                    for k in range(count):
                        total[k] += line[k] * shifted[k]
        for tap in range(size * size):
            target = out[band, tap // size, tap % size]
            target[:] = np.float32(0)
            for at in range(0, (end - start) * channels, channels):
                part = sums[tap, at : at + channels]
                for c in range(channels):
                    target[c] += part[c]


@operator
def depthwise_weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """See `ops.depthwise_weight_gradient`; the sums do not depend on the number of threads."""
    maps = [values.detach().permute(0, 2, 3, 1).contiguous().numpy() for values in (x, gradient)]
    batch, _, width, channels = maps[0].shape
    columns = max(1, _COLUMN_NUMBERS // channels)
    sums = np.empty((batch * -(-width // columns), size, size, channels), np.float32)
    in_parts(
        lambda part: _sum_products(*maps, columns, part.start, part.stop, sums), len(sums), x.numel() * size**2 // _NUMBERS_A_PAIR
    )
    return torch.from_numpy(sums).sum(0).permute(2, 0, 1)[:, None].contiguous()
