"""The C library's allocator, told to keep what is freed."""

import ctypes

# parameters of mallopt(3)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD = 64 << 20  # bytes


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next use; whether the C library could be told (glibc can).

    By default glibc hands every large tensor's memory back to the system when it is freed, and the next one's pages are made
    and cleared anew: about a sixth of a training step on a CPU (`benchmarks/training.py` times both). Meant for training: it is a
    property of the whole process, whose memory never shrinks from then on.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, another system
        return False
    return all(
        mallopt(parameter, value) == 1 for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _PAD))
    )
