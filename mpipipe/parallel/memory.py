"""Memory that a task frees stays with its process, for the next arrays.

The planes of an exposure are arrays of 64 MB. By default the C library maps anew what is larger
than 32 MB, and the kernel has to find and clear its pages: up to a third of the time of a
detection. A process that keeps them holds no more than it once needed at its peak, and what it
needs again for the next task.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""
_KEPT = 2**31 - 1
"""Bytes free at the end of the heap that are not given back: as many as it can be told."""


def give_back_memory() -> None:
    """Give back what is free now: the tasks to come may be of another kind."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def keep_memory() -> bool:
    """Let this process keep what it frees; whether it does.

    Where the C library is not glibc, or the user has set it up (``MALLOC_...``), nothing is done.
    """
    if not sys.platform.startswith("linux") or any(key.startswith("MALLOC_") for key in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, _KEPT))
