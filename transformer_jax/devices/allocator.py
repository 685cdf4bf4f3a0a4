"""The memory allocator of the process that trains."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next step; True where that is possible.

    XLA on a CPU allocates and frees its buffers at every step. If their pages are given back to the
    system each time, they are cleared again at every step, which took a quarter of the demo's
    training time.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return False
    # A whole program's buffers are one block, so the limit above which a block is a mapping of its
    # own is a gigabyte; pages beyond the top of a heap (64 MiB) keep heaps from being given back.
    settings = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 1 << 28}
    return all(mallopt(name, value) for name, value in settings.items())
