"""Writing files so that a kill or a full disk does no harm."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robustnorm.system.errors import DiskError

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed",
}
_FORBIDDEN = {
    errno.EROFS: "it is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
    errno.EIO: "the disk reports an error",
    errno.ENOTDIR: "a file is where its folder should be",
    errno.EEXIST: "a file is where its folder should be",
    errno.EISDIR: "a folder is where it should be",
}
_REPAIR = "choose another disk with --output or --reports"


def write_atomically(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Writes a file completely or not at all, even if the power fails.

    Creates its folder if needed, writes and syncs a temporary file beside it, renames it, then
    syncs the folder.

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
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            move(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


def move(source: Path, target: Path) -> None:
    """Renames a synced file or folder so that the new name survives a power loss."""
    source.replace(target)
    sync(target.parent)


def exists(path: Path) -> bool:
    """Returns whether a file or folder exists; False for a name that none can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_free_space(folder: Path, needed: int) -> None:
    """Raises a DiskError when a folder's disk has fewer free bytes than needed."""
    free = _free(folder)
    if free < needed:
        raise DiskError(
            f"{folder} needs {needed:,} bytes and its disk has {free:,} free; free some, or "
            f"{_REPAIR}"
        )


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
        if error.errno in _FULL:
            raise DiskError(
                f"{path} cannot be written: {_FULL[error.errno]}; {needed:,} bytes are needed, "
                f"{_free(path.parent):,} are free; free some, or {_REPAIR}"
            ) from error
        if error.errno in _FORBIDDEN:
            raise DiskError(
                f"{path} cannot be written: {_FORBIDDEN[error.errno]}; {_REPAIR}"
            ) from error
        raise


def _free(folder: Path) -> int:
    """Returns the free bytes of the disk of a folder, which need not exist yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def sync(path: Path) -> None:
    """Makes a file, or the renames in a folder, survive a power loss.

    Windows cannot open folders and does not need it.
    """
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
