"""Tar archives from untrusted sources, unpacked member by member."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.untrusted import is_inside

# An archive of images unpacks to little more than its size; one of zeros, to a million times it.
_MOST_BYTES, _MOST_RATIO = 16_000_000, 100
# Limits how much is read at once: a header is read in full, whatever size it claims.
_MOST_AT_ONCE = 1_000_000

_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


def unpack_tar(archive: Path, into: Path) -> None:
    """Writes the regular files of a tar archive, plain or compressed by gzip, bzip2 or xz.

    Ignores owners, times and permissions, and creates folders as needed.

    Args:
        archive: Its content, not its name, determines the compression.
        into: A new folder. Files written before an error stay there.

    Raises:
        RefusedFileError: On links, devices, sparse files, paths that lead outside, duplicate names,
            more than both 16 MB and 100 times the archive's size, and damage.
    """
    most = _MOST_BYTES + _MOST_RATIO * archive.stat().st_size
    into.mkdir(parents=True)
    try:
        with _open(archive) as stream:
            bounded: Any = _Bounded(stream, most)
            tar = tarfile.open(fileobj=bounded, mode="r:")  # noqa: SIM115 (nothing to close)
            for member in tqdm(tar, f"unpacking {archive.name}", unit="file", disable=None):
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{member.name} is not a regular file")
                if not is_inside(member.name):
                    raise ValueError(f"{member.name} leads outside")
                if member.offset_data + member.size > most:
                    raise ValueError(_too_large(most))
                path = into / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                with path.open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        ValueError,
        lzma.LZMAError,
        zlib.error,
    ) as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0].rstrip(":")
        raise RefusedFileError(
            f"{archive} cannot be unpacked ({reason}); fetch it again, or unpack it and give the "
            "folder"
        ) from error


class _Bounded:
    """An archive's uncompressed bytes, as a file that raises an error after ``most`` of them."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._most = most

    def read(self, size: int) -> bytes:
        if size > _MOST_AT_ONCE:
            raise ValueError(f"a header should have {size} bytes, more than {_MOST_AT_ONCE}")
        self._check(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, place: int) -> int:
        self._check(place)
        return self._stream.seek(place)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, place: int) -> None:
        if place > self._most + _MOST_AT_ONCE:
            raise ValueError(_too_large(self._most))


def _too_large(most: int) -> str:
    return f"it holds more than {most / 1e6:.0f} MB, 16 MB and {_MOST_RATIO} times its size"


@contextmanager
def _open(archive: Path) -> Iterator[IO[bytes]]:
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        for start, unpacked in _PACKED.items():
            if magic.startswith(start):
                with unpacked(file) as stream:
                    yield stream
                return
        yield file
