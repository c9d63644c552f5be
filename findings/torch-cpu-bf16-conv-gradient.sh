#!/bin/sh
# torch on CPUs with AVX-512 bf16: part of a bfloat16 convolution's weight gradient is never written.
#
# Guess: torch.ops.aten.convolution_backward writes every element of the weight gradient it returns.
# What happens: a 3x3 convolution, stride 2, padding 1, on a map one position wide, in bfloat16: taps that only see padding, whose
#   gradient is 0, are left as they were in memory. float32 on the same input is right.
# Versions: torch 2.13.0 from PyPI (2.15.0 behaves the same), Linux x86-64, Python 3.11.
# Output seen (the last number is what memory held, and so may differ; anything but 0 is the fault):
#   torch 2.13.0: expected 0 in the taps that only see padding; found float32 0.000, bfloat16 0.996
# Source: torch's aten/src/ATen/native/mkldnn/Conv.cpp (mkldnn_convolution_backward_weights) hands an unfilled tensor to oneDNN's
#   backward-by-weights primitive, whose AVX-512 bf16 kernel, to all
#   appearances, skips those taps.
# In rotanext: src/rotanext/models/small_maps.py; when this script fails, see whether that can go.
#
# Exits 0 where it still happens, or does not apply here; 1 where the behaviour has changed; others: it could not be tried.
set -eu
if ! grep -qw avx512_bf16 /proc/cpuinfo 2>/dev/null; then
    echo "not applicable: this processor has no avx512_bf16"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import sys

import torch

libc = ctypes.CDLL(None)
libc.mallopt(-3, (32 << 20) - 1)  # M_MMAP_THRESHOLD: no memory fresh from the system, which is zeros
libc.mallopt(-6, 0x41)  # M_PERTURB: allocated memory is filled with 0xBE, freed memory with 0x41
torch.manual_seed(0)


def most(dtype: torch.dtype) -> float:
    """The largest absolute gradient of the taps that only see padding: all but the middle one."""
    x, out = (torch.randn(1, 64, 1, 1).to(dtype) for _ in range(2))
    weight = torch.randn(64, 64, 3, 3).to(dtype)
    arguments = ([64], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    gradient = torch.ops.aten.convolution_backward(out, x, weight, *arguments)[1].float()
    gradient[:, :, 1, 1] = 0
    return float(gradient.abs().nan_to_num(torch.inf).max())


exact, low = most(torch.float32), most(torch.bfloat16)
print(f"torch {torch.__version__.split('+')[0]}: expected 0 in the taps that only see padding; found float32 {exact:.3f}, bfloat16 {low:.3f}")
if exact != 0 or low == 0:
    sys.exit("the behaviour has changed")
PYTHON
