"""Reserving a folder or file for one process, also on file systems without locks."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout, lock_descriptor

from robustnorm.system.errors import UsageError
from robustnorm.system.files import disk_errors

log = logging.getLogger("robustnorm")

# How file systems say that they have no locks; EBADF and EINVAL only of a folder, as on NFS.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL}
# What stands for each folder that this process holds: a path, and the file or folder it must be.
_held: dict[Path, tuple[Path, tuple[int, int]]] = {}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Reserves a folder, created if needed, for this process.

    Locks the folder itself, so that removing the file ``.lock`` lets nobody in, and that file. The
    kernel releases both when the process ends in any way; the file stays. Where folders cannot be
    locked, as on NFS, the file is; on a file system without locks a second file, ``.lock.held``,
    stands for it, with the host, the process and its start. It is taken over when that process is
    known to have ended, which another host cannot know.

    Raises:
        UsageError: When another process holds it.
        DiskError: When the folder is not writable.
    """
    path = folder / ".lock"
    with ExitStack() as stack:
        with disk_errors(path, 0):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stands = _lock_folder(folder, stack)
                lock = acquire(path, timeout=0)
            except Timeout as error:
                raise _in_use(folder, path) from error
            stack.callback(lock.release)
        with suppress(OSError):  # it only serves messages
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        place = folder.resolve()
        _held[place] = _identified(folder if stands else Path(lock.lock_file))
        stack.callback(_held.pop, place)
        yield


def check_held(folder: Path) -> None:
    """Raises a UsageError if this process reserved the folder, and no longer holds it.

    It was then removed or replaced, or so was what stands for it, and another process may be there.
    """
    reserved = _held.get(folder.resolve())
    if reserved is None:
        return
    path, _ = reserved
    with suppress(OSError):
        if _identified(path) == reserved:
            return
    raise UsageError(
        f"{path} was removed or replaced while {folder} was in use, so another process may work "
        "there; nothing more is saved by this one. The same command continues from what is there"
    )


def acquire(path: Path, timeout: float = -1) -> BaseFileLock:
    """Locks a file, which is created; returns the lock, to be released.

    On a file system without locks a file beside it, with ".held" added to its name, stands for it.

    Args:
        path: The file.
        timeout: Seconds to wait for another process; without limit if negative.

    Raises:
        Timeout: When another process still holds it.
        OSError: When it cannot be created.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
            raise
        marker = _marker(path)
        log.warning("this file system has no locks; %s stands for one", marker)
        lock = SoftFileLock(marker)
        lock.acquire(timeout=timeout)
    return lock


def _lock_folder(folder: Path, stack: ExitStack) -> bool:
    """Locks a folder itself; returns whether that is possible here."""
    if os.name == "nt":  # cannot open folders
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    try:
        if not lock_descriptor(descriptor, blocking=False):
            raise Timeout(str(folder))
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _in_use(folder: Path, path: Path) -> UsageError:
    holder, stale = "another process", ""
    with suppress(OSError):
        holder = path.read_text() or holder
    if _marker(path).exists():
        stale = f"; if that process no longer runs, remove {_marker(path)}"
    return UsageError(
        f"{folder} is in use by {holder}; wait for it or end it, or choose another --name or "
        f"--output{stale}"
    )


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _identified(path: Path) -> tuple[Path, tuple[int, int]]:
    found = path.stat()
    return path, (found.st_dev, found.st_ino)
