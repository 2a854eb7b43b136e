"""Concatenates files into a single file with random access to each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustnorm.data.cache import cached_tensors, files_identity, shorten
from robustnorm.data.errors import RefusedDataError
from robustnorm.data.layout import is_visible
from robustnorm.data.stored import Encoded
from robustnorm.system.archives import read_members
from robustnorm.system.errors import RefusedFileError
from robustnorm.system.files import disk_errors


class Pack:
    """Concatenated files, for example those of an archive, in their order.

    Args:
        name: Name of the concatenated file.
        identity: Identity of the source, from ``cache.files_identity``.
        cache: Folder of the concatenated file, which is written once.
        members: Yields name and content of each file.
        check: Called with the names; if it raises an error, nothing is left behind.

    Raises:
        RefusedFileError: When the source is damaged or unsafe to read; nothing is left behind.
        DiskError: When the folder is not writable.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        cache: Path,
        members: Callable[[], Iterable[tuple[str, bytes]]],
        check: Callable[[Sequence[str]], object] = len,
    ) -> None:
        self._members, self._check, self.identity = members, check, identity
        self._file = cache / f"packed-{shorten(name)}-{identity}.bin"
        self._index = self._file.with_suffix(".safetensors")
        found = cached_tensors(self._index, self._make)
        if not self._file.is_file() or self._file.stat().st_size != int(found["places"].sum(0)[1]):
            self.remove()
            found = cached_tensors(self._index, self._make)
        names = bytes(found["names"].numpy()).split(b"\0")
        self.encoded = Encoded(self._file, np.array(names, np.bytes_), found["places"].numpy())
        self.names = [os.fsdecode(name) for name in names]

    @classmethod
    def of_archive(
        cls, archive: Path, cache: Path, check: Callable[[Sequence[str]], object] = len
    ) -> Pack:
        """Packs the visible files of a tar or zip archive; raises errors like the class."""
        name, key = archive.name.split(".")[0], files_identity(archive.parent, [archive.name])
        return cls(name, key, cache, partial(_visible, archive), check)

    def remove(self) -> None:
        """Removes the concatenated file and its index."""
        self._index.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)

    def _make(self) -> dict[str, Tensor]:
        names, places, end = list[str](), list[tuple[int, int]](), 0
        temporary = self._file.with_name(f".{self._file.name}.tmp")
        try:
            with disk_errors(self._file, 0), temporary.open("wb") as file:
                for name, content in self._members():
                    file.write(content)
                    names.append(name)
                    places.append((end, len(content)))
                    end += len(content)
                self._check(names)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
        finally:
            temporary.unlink(missing_ok=True)
        joined = b"\0".join(map(os.fsencode, names))
        return {
            "names": torch.frombuffer(bytearray(joined or b"\0"), dtype=torch.uint8),
            "places": torch.tensor(places, dtype=torch.int64).view(-1, 2),
        }


def _visible(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        yield from read_members(archive, is_visible)
    except RefusedFileError as error:
        raise RefusedDataError(str(error)) from error
