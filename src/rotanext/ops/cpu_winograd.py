"""3x3 convolutions on the CPU by Winograd's minimal filtering F(4x4, 3x3), for inference; reference.py has the formula.

Output tiles of 4x4 take 36 multiplications a channel pair instead of 144. The transforms are numba kernels on channels-last maps;
the multiplications are 36 matrix products.
"""

import numpy as np
import torch
from torch import Tensor

from rotanext.ops.jit import in_parts, jit, operator

_TILES_AT_ONCE = 512  # their transforms stay in the cache between the steps
_NUMBERS_A_PAIR = 64  # transforming so many costs about as much as an IoU, which `in_parts` counts in


@jit
def _to_tiles(image: np.ndarray, first: int, start: int, end: int, tiles_x: int, out: np.ndarray) -> None:
    """B^T d B of tiles `start` to `end` of a map `[H, W, C]` into `out [36, tiles, C]`, whose first tile is `first`."""
    height, width, channels = image.shape
    window = np.zeros((6, 6, channels), np.float32)
    half = np.zeros((6, 6, channels), np.float32)
    for tile in range(start, end):
        top, left = (tile // tiles_x) * 4 - 1, (tile % tiles_x) * 4 - 1
        for y in range(6):
            for x in range(6):
                if 0 <= top + y < height and 0 <= left + x < width:
                    window[y, x] = image[top + y, left + x]
                else:
                    window[y, x] = np.float32(0.0)
        for x in range(6):
            for c in range(channels):
                d0, d1, d2 = window[0, x, c], window[1, x, c], window[2, x, c]
                d3, d4, d5 = window[3, x, c], window[4, x, c], window[5, x, c]
                even, odd = d4 - np.float32(4) * d2, d3 - np.float32(4) * d1
                half[0, x, c] = np.float32(4) * d0 - np.float32(5) * d2 + d4
                half[1, x, c] = even + odd
                half[2, x, c] = even - odd
                even, odd = d4 - d2, np.float32(2) * (d3 - d1)
                half[3, x, c] = even + odd
                half[4, x, c] = even - odd
                half[5, x, c] = np.float32(4) * d1 - np.float32(5) * d3 + d5
        for y in range(6):
            for c in range(channels):
                d0, d1, d2 = half[y, 0, c], half[y, 1, c], half[y, 2, c]
                d3, d4, d5 = half[y, 3, c], half[y, 4, c], half[y, 5, c]
                even, odd = d4 - np.float32(4) * d2, d3 - np.float32(4) * d1
                out[6 * y, tile - first, c] = np.float32(4) * d0 - np.float32(5) * d2 + d4
                out[6 * y + 1, tile - first, c] = even + odd
                out[6 * y + 2, tile - first, c] = even - odd
                even, odd = d4 - d2, np.float32(2) * (d3 - d1)
                out[6 * y + 3, tile - first, c] = even + odd
                out[6 * y + 4, tile - first, c] = even - odd
                out[6 * y + 5, tile - first, c] = np.float32(4) * d1 - np.float32(5) * d3 + d5


@jit
def _from_tiles(tiles: np.ndarray, bias: np.ndarray, first: int, start: int, end: int, tiles_x: int, out: np.ndarray) -> None:
    """A^T m A of products `[36, tiles, K]`, plus bias, into tiles `start` to `end` of the map `out [H, W, K]`."""
    height, width, channels = out.shape
    half = np.zeros((4, 6, channels), np.float32)
    for tile in range(start, end):
        top, left = (tile // tiles_x) * 4, (tile % tiles_x) * 4
        for x in range(6):
            for c in range(channels):
                m0, m1, m2 = tiles[x, tile - first, c], tiles[6 + x, tile - first, c], tiles[12 + x, tile - first, c]
                m3, m4, m5 = tiles[18 + x, tile - first, c], tiles[24 + x, tile - first, c], tiles[30 + x, tile - first, c]
                sum1, sum2, difference1, difference2 = m1 + m2, m3 + m4, m1 - m2, m3 - m4
                half[0, x, c] = m0 + sum1 + sum2
                half[1, x, c] = difference1 + np.float32(2) * difference2
                half[2, x, c] = sum1 + np.float32(4) * sum2
                half[3, x, c] = difference1 + np.float32(8) * difference2 + m5
        for y in range(min(4, height - top)):
            columns = min(4, width - left)
            for c in range(channels):
                m0, m1, m2 = half[y, 0, c], half[y, 1, c], half[y, 2, c]
                m3, m4, m5 = half[y, 3, c], half[y, 4, c], half[y, 5, c]
                sum1, sum2, difference1, difference2 = m1 + m2, m3 + m4, m1 - m2, m3 - m4
                b = bias[c]
                out[top + y, left, c] = m0 + sum1 + sum2 + b
                if columns > 1:
                    out[top + y, left + 1, c] = difference1 + np.float32(2) * difference2 + b
                if columns > 2:
                    out[top + y, left + 2, c] = sum1 + np.float32(4) * sum2 + b
                if columns > 3:
                    out[top + y, left + 3, c] = difference1 + np.float32(8) * difference2 + m5 + b


@operator
def winograd_convolution(x: Tensor, matrices: Tensor, bias: Tensor) -> Tensor:
    """See `ops.winograd_convolution`."""
    x = x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    out = torch.empty(batch, matrices.shape[2], height, width, dtype=torch.float32, memory_format=torch.channels_last)
    tiles_x, tiles_y = -(-width // 4), -(-height // 4)
    count = tiles_x * tiles_y
    most = min(count, _TILES_AT_ONCE)
    spread, product = (torch.empty(36, most, wide, dtype=torch.float32) for wide in (channels, matrices.shape[2]))
    values, sums, constants = spread.numpy(), product.numpy(), bias.numpy()
    for source, target in zip(x.permute(0, 2, 3, 1).numpy(), out.permute(0, 2, 3, 1).numpy(), strict=True):
        for first in range(0, count, most):
            used = min(most, count - first)

            def spread_part(part: slice, source: np.ndarray = source, first: int = first) -> None:
                _to_tiles(source, first, first + part.start, first + part.stop, tiles_x, values)

            def join_part(part: slice, target: np.ndarray = target, first: int = first) -> None:
                _from_tiles(sums, constants, first, first + part.start, first + part.stop, tiles_x, target)

            in_parts(spread_part, used, 36 * used * channels // _NUMBERS_A_PAIR)
            torch.bmm(spread[:, :used], matrices, out=product[:, :used])
            in_parts(join_part, used, 36 * used * channels // _NUMBERS_A_PAIR)
    return out
