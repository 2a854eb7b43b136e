"""Files cut into small pieces and put together again, every hash checked.

A pack is a folder: ``manifest.json`` and pieces, which joined are a plain tar archive.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.untrusted import is_inside, parse_json

_FORMAT = 1
_MANIFEST = "manifest.json"
_ENTRY = {"name": str, "bytes": int, "sha256": str}
_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


class PackError(RefusedFileError):
    """A pack cannot be made or is not whole; the message says what to do."""


@dataclass(frozen=True)
class PackSettings:
    """What to pack.

    Args:
        source: Folder below the current one, such as checkpoints or checkpoints/digits/bn-seed0.
        into: Folder for the pieces; new or empty.
        piece: Largest size of a piece, such as 15MB.

    Raises:
        ValueError: On a size that is none.
    """

    source: str
    into: str = "packed"
    piece: str = "15MB"

    def __post_init__(self) -> None:
        size_in_bytes(self.piece)


@dataclass(frozen=True)
class UnpackSettings:
    """What to unpack.

    Args:
        source: Folder of the pieces.
        into: Folder below which the files get the paths that they had.
        overwrite: Replace files of other content.
    """

    source: str
    into: str = "."
    overwrite: bool = False


def size_in_bytes(text: str) -> int:
    """Returns the bytes of a size.

    Raises:
        ValueError: On anything but a number above 0 with the unit kB, MB, GB or none.

    Examples:
        >>> size_in_bytes("15MB")
        15000000
    """
    match = re.fullmatch(r"(\d+) ?(|kB|MB|GB)", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"piece must be a size such as 15MB or 500kB, got {text}")
    return int(match[1]) * _UNITS[match[2]]


def pack(source: Path, into: Path, piece_bytes: int) -> list[Path]:
    """Packs a folder's files into pieces; all of them appear in ``into``, or none.

    The files keep their paths relative to the current folder; links, locks, and temporary files
    that a kill left behind, are left out. The same files give the same pieces.

    Args:
        source: A folder below the current one.
        into: A new or empty folder.
        piece_bytes: Largest size of a piece.

    Returns:
        The paths of the manifest and the pieces.

    Raises:
        PackError: When there is nothing to pack, or ``into`` is not empty.
    """
    here = Path.cwd()
    source, into = source.resolve(), into.resolve()
    if not source.is_dir() or not source.is_relative_to(here):
        raise UsageError(f"a folder below {here} is required, got {source}")
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise UsageError(f"{into} is there and not empty; choose a new folder with --into")
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and _belongs(path)]
    if not files:
        raise UsageError(f"{source} has no files")
    into.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{into.name}.", dir=into.parent) as temporary:
        stream, made = Path(temporary) / "stream", Path(temporary) / "pack"
        made.mkdir()
        with tarfile.open(stream, "w:") as archive:
            for path in files:
                archive.add(path, arcname=path.relative_to(here).as_posix(), filter=_anonymous)
        pieces: list[dict[str, Any]] = []
        with stream.open("rb") as whole:
            while data := whole.read(piece_bytes):
                name = f"piece-{len(pieces):04d}"
                (made / name).write_bytes(data)
                pieces.append(_entry(name, data))
        with tarfile.open(stream, "r:") as archive:  # what was packed, should a file have changed
            entries = [_entry(member.name, _content(archive, member)) for member in archive]
        manifest = {"format": _FORMAT, "pieces": pieces, "files": entries}
        (made / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        made.rename(into)
    return [into / _MANIFEST, *(into / piece["name"] for piece in pieces)]


def unpack(source: Path, into: Path, *, overwrite: bool = False) -> list[Path]:
    """Puts the files of a pack in their places, after every hash of pieces and files is checked.

    Args:
        source: The pack.
        into: Folder below which the files get their paths.
        overwrite: Replace files of other content.

    Returns:
        The paths of the files.

    Raises:
        PackError: When a piece is missing, twice, damaged, or strange; when a path leads outside
            ``into``; or when a file of other content is there. No file is written then.
    """
    manifest = _read_manifest(source)
    _check_pieces(source, manifest["pieces"])
    into = into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unpack.", dir=into) as temporary:
        stream, made = Path(temporary) / "stream", Path(temporary) / "files"
        with stream.open("wb") as whole:
            for piece in manifest["pieces"]:
                whole.write((source / piece["name"]).read_bytes())
        _extract(stream, made, manifest["files"])
        names = [entry["name"] for entry in manifest["files"]]
        changed = [name for name in names if _is_other(into / name, made / name)]
        if changed and not overwrite:
            raise UsageError(
                f"{into / changed[0]} is there with other content"
                + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")
                + "; --overwrite true replaces what is there"
            )
        # Manifests come after the tensors that they name, so that a kill leaves whole checkpoints.
        for name in sorted(names, key=lambda name: (name.endswith(".json"), name)):
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).replace(into / name)
    return [into / name for name in names]


def _belongs(path: Path) -> bool:
    leftover = path.name.startswith(".") and path.suffix == ".tmp"
    return not path.is_symlink() and not leftover and path.name != ".lock"


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leaves out who made a file and when: the same content gives the same archive."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _read_manifest(source: Path) -> dict[str, Any]:
    path = source / _MANIFEST
    try:
        manifest: dict[str, Any] = parse_json(path.read_text())
        if manifest["format"] != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        for entry in manifest["pieces"] + manifest["files"]:
            if {name: type(value) for name, value in entry.items()} != _ENTRY:
                raise ValueError("an entry is not name, bytes and sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackError(f"{path} is no manifest of a pack ({error}); pack again") from error
    for kind in ("pieces", "files"):
        names = [entry["name"] for entry in manifest[kind]]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise PackError(f"{path} names {twice[0]} twice; pack again")
        outside = [name for name in names if not is_inside(name)]
        if outside:
            raise PackError(f"{path} names {outside[0]}, which leads outside; do not trust it")
    return manifest


def _check_pieces(source: Path, pieces: Sequence[dict[str, Any]]) -> None:
    """Raises a PackError that tells all that is wrong with the pieces."""
    names = {piece["sha256"]: piece["name"] for piece in pieces}
    problems = []
    for piece in pieces:
        path = source / piece["name"]
        if not path.is_file():
            problems.append(f"{piece['name']} is missing")
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != piece["sha256"]:
            copied = f" (it is {names[digest]} once more)" if digest in names else ""
            problems.append(f"{piece['name']} is damaged{copied}")
    known = {piece["name"] for piece in pieces}
    problems += [
        f"{path.name} belongs to another pack"
        for path in sorted(source.glob("piece-*"))
        if path.name not in known
    ]
    if problems:
        raise PackError(f"the pack in {source} is not whole: {'; '.join(problems)}")


def _extract(stream: Path, made: Path, files: Sequence[dict[str, Any]]) -> None:
    """Extracts an archive that must hold exactly the files told, and checks them."""
    wanted = {entry["name"]: entry for entry in files}
    sizes = {name: entry["bytes"] for name, entry in wanted.items()}
    try:
        with tarfile.open(stream, "r:") as archive:
            members = archive.getmembers()
            if sorted(member.name for member in members) != sorted(wanted) or not all(
                # A sparse file may be of any size.
                member.isreg() and not member.issparse() and member.size == sizes[member.name]
                for member in members
            ):
                raise PackError(
                    "the pack does not hold the files that its manifest names; pack again"
                )
            for member in members:
                (made / member.name).parent.mkdir(parents=True, exist_ok=True)
                (made / member.name).write_bytes(_content(archive, member))
    except (tarfile.TarError, OSError) as error:
        raise PackError(f"the pack cannot be unpacked ({error}); pack again") from error
    for name, entry in wanted.items():
        if _entry(name, (made / name).read_bytes()) != entry:
            raise PackError(f"{name} in the pack is not what was packed; pack again")


def _is_other(place: Path, made: Path) -> bool:
    """Returns whether a file of other content is in the place."""
    return place.exists() and (not place.is_file() or place.read_bytes() != made.read_bytes())
