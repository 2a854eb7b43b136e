"""Tar and zip archives from untrusted sources, read member by member."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from robustnorm.system.errors import RefusedFileError
from robustnorm.system.files import disk_errors, write_atomically
from robustnorm.system.untrusted import check_member, most_bytes, most_members

# Largest single read: tarfile reads a header in full, whatever size it claims.
_MOST_AT_ONCE = 1_000_000
_BLOCK = 512  # size of a tar archive's blocks; its end is marked by blocks of zeros
_ZIP = b"PK"

_DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


def read_members(
    archive: Path, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of each regular file of an archive, in order; writes nothing.

    Reads the archive to its end, which verifies all of its checksums and detects a truncated one.
    Owners, times and permissions are ignored.

    Args:
        archive: A zip file, or a tar file, plain or compressed with gzip, bzip2 or xz. The format
            is recognized by its content.
        wanted: Returns whether to yield the file of a given name; the others are skipped.

    Raises:
        RefusedFileError: On links, devices, sparse or encrypted files, paths that lead out of the
            archive's folder, duplicate names, more bytes or members than ``system.untrusted``
            allows, and damage.
    """
    names, longest = set[str](), 0
    try:
        with archive.open("rb") as file:
            read = _read_zip if file.read(2) == _ZIP else _read_tar
            file.seek(0)
            size = archive.stat().st_size
            members = tqdm(
                read(file, size, wanted), f"reading {archive.name}", unit="file", disable=None
            )
            for number, (name, content) in enumerate(members):
                if number >= most_members(size):
                    raise ValueError(f"it has more than {most_members(size):,} members")
                check_member(name)
                longest = max(longest, len(name))
                if longest * number > most_bytes(size):  # kept padded to one length
                    raise ValueError("its names take more bytes than its content may")
                if name in names:
                    raise ValueError(f"{name[:80]} appears twice")
                names.add(name)
                if content is not None:
                    yield name, content
    # The libraries raise almost any exception on a damaged archive.
    except Exception as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0].rstrip(":")
        raise RefusedFileError(
            f"{archive} cannot be read ({reason}); download it again, or unpack it and give the "
            "folder"
        ) from error


def unpack(archive: Path, into: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Writes the regular files of an archive into a folder; raises what ``read_members`` raises.

    Args:
        archive: The archive.
        into: A new folder. Files written before an error stay there.
        wanted: Returns whether to write the file of a given name.
    """
    with disk_errors(into, 0):
        into.mkdir(parents=True)
    for name, content in read_members(archive, wanted):
        write_atomically(into / name, content)


def _read_zip(
    file: IO[bytes], size: int, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes | None]]:
    """Yields each member's name and content, None for folders and unwanted files."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > most_bytes(size):
            raise ValueError(_too_large(size))
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{member.filename[:80]} is not a regular file")
            skipped = member.is_dir() or not wanted(member.filename)
            yield member.filename, None if skipped else archive.read(member)


def _read_tar(
    archive: IO[bytes], size: int, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes | None]]:
    """Yields each member's name and content, None for folders and unwanted files."""
    with _uncompressed(archive) as stream:
        bounded: Any = _Bounded(stream, size)
        tar = tarfile.open(fileobj=bounded, mode="r:")  # noqa: SIM115 (nothing to close)
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # tarfile keeps every member
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise ValueError(f"{member.name[:80]} is not a regular file")
            bounded.check(member.offset_data + member.size)
            file = tar.extractfile(member) if wanted(member.name) else None  # None for a folder
            yield member.name, b"".join(iter(partial(file.read, 2**16), b"")) if file else None
        bounded.seek(tar.offset)
        if bounded.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError("its end is missing")
        while rest := bounded.read(2**16):
            if rest.strip(b"\0"):
                raise ValueError("it has data after its end")


class _Bounded:
    """An archive's uncompressed bytes, as a file that raises an error when there are too many."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._size = size

    def read(self, size: int) -> bytes:
        if size > _MOST_AT_ONCE:
            raise ValueError(f"a header claims {size} bytes, more than {_MOST_AT_ONCE}")
        self.check(self._stream.tell() + size - _MOST_AT_ONCE)
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        self.check(position - _MOST_AT_ONCE)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def check(self, position: int) -> None:
        if position > most_bytes(self._size):
            raise ValueError(_too_large(self._size))


def _too_large(size: int) -> str:
    return f"it holds more than {most_bytes(size) / 1e6:.0f} MB"


@contextmanager
def _uncompressed(file: IO[bytes]) -> Iterator[IO[bytes]]:
    magic = file.read(6)
    file.seek(0)
    for start, decompress in _DECOMPRESSORS.items():
        if magic.startswith(start):
            with decompress(file) as stream:
                yield stream
            return
    yield file
