"""Caches results computed from files, identified by content and checked when read."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustnorm.system.files import disk_errors, write_atomically
from robustnorm.system.locks import acquire
from robustnorm.system.tensor_hash import hash_tensors

# Above this size in total, files are identified by their metadata instead of their content.
_MOST_HASHED = 4_000_000_000

log = logging.getLogger("robustnorm")


def cached_tensors(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the cached tensors in a file, computing them if there is no valid file.

    If several processes call it at once, one computes and the others wait. A killed process leaves
    nothing that could be mistaken for a complete file.

    Args:
        path: The file; its name contains the ``files_identity`` of the files behind the tensors.
        make: Computes the tensors.

    Raises:
        DiskError: When the folder is not writable.
    """
    if (found := _read(path)) is not None:
        return found
    with locked(path):
        if (found := _read(path)) is not None:
            return found
        tensors = make()
        write_atomically(path, save(tensors, {"sha256": hash_tensors(tensors)}))
        return tensors


def files_identity(root: Path, names: Sequence[str], titles: Sequence[str] | None = None) -> str:
    """Returns a hash of the names and content of files.

    Above 4 GB in total, it uses sizes, inodes and times instead of the content; programs cannot set
    one of these, the time of the inode's change.

    Args:
        root: Folder of the files.
        names: Their names in it.
        titles: Names to hash instead, one per file.
    """
    total = hashlib.sha256()
    small = sum((root / name).stat().st_size for name in names) <= _MOST_HASHED
    for name, title in zip(names, names if titles is None else titles, strict=True):
        path = root / name
        s = path.stat()
        total.update(f"{title}\0{s.st_size}\0".encode(errors="surrogateescape"))
        if small:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        else:
            total.update(f"{s.st_dev} {s.st_ino} {s.st_mtime_ns} {s.st_ctime_ns}\0".encode())
    return total.hexdigest()[:16]


def shorten(name: str, most: int = 80) -> str:
    """Returns the first ``most`` bytes of a name, without a half character at the end."""
    return os.fsencode(name)[:most].decode(errors="ignore")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Prevents other processes from making the same file or folder during the block."""
    with disk_errors(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock")
        try:
            lock = acquire(file, timeout=0.1)
        except Timeout:
            log.info("waiting for another process that is creating %s", path)
            lock = acquire(file)
    try:
        yield
    finally:
        # While the lock is held: a waiting process that finds no file creates another one.
        with suppress(OSError):
            file.unlink()
        lock.release()


def _read(path: Path) -> dict[str, Tensor] | None:
    """Returns the tensors in a file, or None if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            claimed = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged (%s) and is computed again", path, error)
        return None
    if claimed != hash_tensors(tensors):
        log.warning("%s is damaged and is computed again", path)
        return None
    return tensors
