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

# Errors of file systems without locks; EBADF and EINVAL only for folders, as on NFS.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL}
# For each folder that this process holds: the locked path, and the device and inode it had.
_held: dict[Path, tuple[Path, tuple[int, int]]] = {}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Reserves a folder, created if needed, for this process.

    Locks the folder itself, so that removing the file ``.lock`` lets nobody in, and that file. The
    kernel releases both locks however the process ends; the file stays. Where folders cannot be
    locked, as on NFS, only the file is. On a file system without locks, a second file,
    ``.lock.held``, serves instead; it names the host, the process and its start time, and is taken
    over once that process is known to have ended, which another host cannot know.

    Raises:
        UsageError: When another process holds it.
        DiskError: When the folder is not writable.
    """
    path = folder / ".lock"
    with ExitStack() as stack:
        with disk_errors(path, 0):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                is_locked = _lock_folder(folder, stack)
                lock = acquire(path, timeout=0)
            except Timeout as error:
                raise _in_use(folder, path) from error
            stack.callback(lock.release)
        with suppress(OSError):  # only for messages
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        resolved = folder.resolve()
        _held[resolved] = _path_and_inode(folder if is_locked else Path(lock.lock_file))
        stack.callback(_held.pop, resolved)
        yield


def check_held(folder: Path) -> None:
    """Raises a UsageError if this process reserved the folder but no longer holds it.

    The folder or its lock file was then removed or replaced, and another process may be using it.
    """
    reserved = _held.get(folder.resolve())
    if reserved is None:
        return
    path, _ = reserved
    with suppress(OSError):
        if _path_and_inode(path) == reserved:
            return
    raise UsageError(
        f"{path} was removed or replaced while {folder} was in use, so another process may work "
        "there; this one saves nothing more. The same command continues from what is there"
    )


def acquire(path: Path, timeout: float = -1) -> BaseFileLock:
    """Creates and locks a file; returns the lock, which the caller releases.

    On a file system without locks, a file beside it with ".held" added to its name serves instead.

    Args:
        path: The file.
        timeout: Seconds to wait for another process; no limit if negative.

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
        log.warning("this file system has no locks; %s serves as one", marker)
        lock = SoftFileLock(marker)
        lock.acquire(timeout=timeout)
    return lock


def _lock_folder(folder: Path, stack: ExitStack) -> bool:
    """Locks the folder itself; returns whether its file system allows that."""
    if os.name == "nt":  # Windows cannot open folders
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


def _path_and_inode(path: Path) -> tuple[Path, tuple[int, int]]:
    found = path.stat()
    return path, (found.st_dev, found.st_ino)
