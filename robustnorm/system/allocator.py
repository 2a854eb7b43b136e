"""Memory that a process frees and needs again at every step, kept instead of given back."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep freed memory for the next tensor, for the whole process.

    By default each large tensor on the CPU is mapped anew, and the kernel clears its pages at their
    first use: up to half of the time of an attack. Elsewhere than on glibc this does nothing.

    Returns:
        Whether malloc took the settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
