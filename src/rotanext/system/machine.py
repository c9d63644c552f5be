"""The machine and the packages on it."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """The processor's model, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> float | None:
    """GiB of memory, to one decimal; None where the system does not tell (Windows)."""
    with suppress(ValueError, OSError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def package_version(name: str) -> str | None:
    """The version of an installed package; None where there is none of this name."""
    try:
        return version(name)
    except PackageNotFoundError:  # such as opencv-python in the place of opencv-python-headless
        return None
