"""Keeping freed memory for the next step instead of returning it to the system."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes glibc's malloc keep freed memory for the next tensor, for the whole process.

    By default each large CPU tensor is mapped anew, and the kernel clears its pages when they are
    first used: up to half of an attack's time. Does nothing without glibc.

    Returns:
        Whether malloc accepted the settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
