#!/bin/sh
# OpenVINO's CPU plugin replaces the alternate signal stack of the thread that computes, and does not put it back.
#
# Guess: compiling and running a model leaves the calling thread's sigaltstack as it was.
# What happens: after the first inference it is another one, which OpenVINO owns. CPython (since 3.10) runs its signal handlers on
#   that stack, and faulthandler sets one aside for them. In a long test session, in which models came and went, the process later
#   ended with SIGSEGV at an ordinary signal, and without a word, as faulthandler's own handler needs that stack, too.
# Versions: openvino 2026.4.1, numpy 2.4.6 from PyPI, Linux x86-64, Python 3.11, a processor with AVX-512.
# Output seen (addresses and sizes differ): alternate signal stack before 16880 bytes, after 11568 bytes: replaced
# Source: seen by sigaltstack(2) before and after; bpo-43390 in CPython for handlers on the alternate stack.
# In rotanext: keeping_signal_stack in src/rotanext/system/signals.py; when this script fails, see whether that can go.
#
# Exits 0 where it still happens, or does not apply here; 1 where the behaviour has changed; others: it could not be tried.
set -eu
if [ "$(uname -s)" != Linux ]; then
    echo "not applicable: the structure is read as Linux lays it out"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import faulthandler
import sys

import numpy as np
import openvino
import openvino.opset13 as ops

faulthandler.enable()


class Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def current() -> tuple:
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.address, stack.flags, stack.size


before = current()
x = ops.parameter([1, 3, 8, 8], np.float32)
model = openvino.Core().compile_model(openvino.Model([ops.relu(x)], [x]), "CPU")
model(np.zeros((1, 3, 8, 8), np.float32))
after = current()
print(f"alternate signal stack before {before[2]} bytes, after {after[2]} bytes: {'kept' if after == before else 'replaced'}")
if after == before:
    sys.exit("the behaviour has changed")
PYTHON
