"""What is computed once from files and kept: found again by content, whole, or computed anew."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustnorm.system.files import disk_errors, write_atomically

# Files of more bytes together are told apart by what the file system says of them.
_MOST_HASHED = 4_000_000_000

log = logging.getLogger("robustnorm")


def kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the tensors in a file that an earlier call wrote; without a sound one, makes it now.

    Several processes may ask at once: one makes the file, the others wait. One that is killed
    leaves nothing that a later one could take for a whole file.

    Args:
        path: The file; its name holds the ``identity`` of what the tensors follow from.
        make: Makes the tensors.

    Raises:
        DiskError: When the folder cannot be written.
    """
    if (found := _read(path)) is not None:
        return found
    with locked(path):
        if (found := _read(path)) is not None:
            return found
        tensors = make()
        write_atomically(path, save(tensors, {"sha256": _hash(tensors)}))
        return tensors


def identity(paths: Iterable[Path], names: Iterable[str]) -> str:
    """Returns a hash of files' names and content.

    Of more than 4 GB together it takes size, inode and times in place of the content. The time of
    a change of the inode among them cannot be set by a program.

    Args:
        paths: The files.
        names: What they are called, whatever folder they lie in.
    """
    stats = [(path, name, path.stat()) for path, name in zip(paths, names, strict=True)]
    together = hashlib.sha256()
    small = sum(status.st_size for *_, status in stats) <= _MOST_HASHED
    for path, name, s in stats:
        together.update(f"{name}\0{s.st_size}\0".encode(errors="surrogateescape"))
        if small:
            with path.open("rb") as file:
                together.update(hashlib.file_digest(file, "sha256").digest())
        else:
            together.update(f"{s.st_dev} {s.st_ino} {s.st_mtime_ns} {s.st_ctime_ns}\0".encode())
    return together.hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes from making the same file or folder during the block."""
    with disk_errors(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            log.info("waiting for another process, which makes %s", path)
            lock.acquire()
    try:
        yield
        # While it is held: who waits for a file that is gone makes another.
        with suppress(OSError):
            os.unlink(lock.lock_file)  # noqa: PTH108
    except BaseException:
        with suppress(OSError):
            os.unlink(lock.lock_file)  # noqa: PTH108
        raise
    finally:
        lock.release()


def _read(path: Path) -> dict[str, Tensor] | None:
    """Returns the tensors in a file, None where it is missing or not as it was written."""
    try:
        with safe_open(path, "pt") as file:
            claimed = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged (%s) and is made anew", path, error)
        return None
    if claimed != _hash(tensors):
        log.warning("%s is damaged and is made anew", path)
        return None
    return tensors


def _hash(tensors: dict[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        content.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()
