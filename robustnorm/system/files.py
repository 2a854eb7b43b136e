"""Writing files so that a kill, a full disk or a second process does no harm."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from robustnorm.system.errors import DiskError, UsageError

_HAS_LOCKS = find_spec("fcntl") is not None  # Windows has none
if _HAS_LOCKS:
    import fcntl

log = logging.getLogger("robustnorm")

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EROFS: "it is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
    errno.EIO: "the disk fails",
}
_REPAIR = "free some, or choose another disk with --output"


def write_atomically(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Writes a file completely or not at all, even if the power fails.

    Writes and syncs a temporary file beside it, renames it, then syncs the folder.

    Args:
        path: The file.
        data: Its content.
        shared: Whether other processes, on any machine, may write the file at the same time.

    Raises:
        DiskError: When the disk is full or read-only; the previous file is left unchanged.
    """
    writer = f".{socket.gethostname()}-{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    with disk_errors(path, len(data)):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def check_free_space(folder: Path, needed: int) -> None:
    """Raises a DiskError when a folder's disk has fewer free bytes than needed."""
    free = _free(folder)
    if free < needed:
        raise DiskError(
            f"{folder} needs {needed:,} bytes and its disk has {free:,} free; {_REPAIR}"
        )


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Reserves a folder, created if needed, for this process.

    The kernel releases it when the process ends in any way; the file ``.lock`` stays.

    Raises:
        UsageError: When another process holds it.
        DiskError: When the folder is not writable.
    """
    path = folder / ".lock"
    with disk_errors(path, 0):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            _lock(file)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(
                f"{folder} is in use by {holder}; wait for it or end it, or choose another --name "
                "or --output"
            ) from error
        with disk_errors(path, 0):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _lock(file: IO[str]) -> None:
    """Locks a file without waiting; warns and continues on systems without such locks."""
    if not _HAS_LOCKS:
        log.warning("%s is not locked on this system: do not start a second run there", file.name)
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """Turns the disk's errors within the block into a DiskError.

    Args:
        path: The file being written.
        needed: Its size in bytes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise DiskError(
            f"{path} cannot be written: {_DISK[error.errno]}; {needed:,} bytes are needed, "
            f"{_free(path.parent):,} are free; {_REPAIR}"
        ) from error


def _free(folder: Path) -> int:
    """Returns the free bytes of the disk of a folder, which need not exist yet."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder durable; Windows cannot open folders and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
