"""Coping with little memory: recognizing its errors, shrinking batches, reporting the peak."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import torch

from robustnorm.system.errors import OutOfMemoryError

_HAS_LIMITS = find_spec("resource") is not None  # Windows has none
if _HAS_LIMITS:
    import resource

_T = TypeVar("_T")

# RuntimeErrors of torch without a class of their own: from the CPU allocator, cuBLAS and cuDNN.
_MESSAGES = ("DefaultCPUAllocator: ", "_STATUS_ALLOC_FAILED", "CUDA out of memory")

log = logging.getLogger("robustnorm")


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that memory ran out, on the CPU or a GPU.

    Examples:
        >>> is_out_of_memory(torch.OutOfMemoryError()), is_out_of_memory(MemoryError())
        (True, True)
        >>> is_out_of_memory(RuntimeError("size mismatch"))
        False
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in _MESSAGES)
    )


def in_smaller_batches(work: Callable[[int], _T], most: int) -> _T:
    """Returns ``work(size)`` for the first of most, most / 2, ... 1 that fits in memory.

    Args:
        work: Does all of the work in batches of that size; must be repeatable.
        most: Batch size to begin with.

    Raises:
        OutOfMemoryError: When not even 1 fits.
    """
    size = most
    while True:
        try:
            return work(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                reason = str(error).partition("\n")[0] or type(error).__name__
                raise OutOfMemoryError(
                    f"out of memory with one image at a time ({reason}): free memory, or use a "
                    "device with more, smaller images or a smaller network"
                ) from error
        # Outside the handler, whose error keeps the tensors of the failed attempt alive.
        size = (size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory: attacking %d images at a time instead of %d", size, most)


def bytes_taken(work: Callable[[], object], device: torch.device) -> int:
    """Runs ``work`` on a GPU; returns the largest increase in its memory use, in bytes.

    Resets the peak that torch records.
    """
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """Returns the bytes of a GPU that are unused, or reserved by torch but hold no tensor."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def peak_memory(device: torch.device) -> str:
    """Describes the largest memory use so far, of a GPU's tensors or of the process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on {device}"
    if not _HAS_LIMITS:
        return "an unknown amount"
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{peak / 2**30:.1f} GiB in this process"
