"""Freed memory stays with the process, where the C library can be told so."""

import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from rotanext.system.allocator import keep_freed_memory
if {keep} and not keep_freed_memory():
    raise SystemExit(3)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # the first handful is made anew in any case: the heap grows until it has a hole that fits
    torch.ones(1 << 23)
before = faults()
for _ in range(20):
    torch.ones(1 << 23)  # 32 MB, 8192 pages
print(faults() - before)
"""


def page_faults(keep: bool) -> int:
    done = subprocess.run([sys.executable, "-c", CODE.format(keep=keep)], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("this system's C library has no mallopt")
    assert not done.returncode, done.stderr
    return int(done.stdout)


def test_pages_are_used_again() -> None:
    kept, returned = page_faults(keep=True), page_faults(keep=False)
    assert kept < 0.05 * returned, (kept, returned)


def test_a_library_that_cannot_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from rotanext.system import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
