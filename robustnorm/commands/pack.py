"""Cuts runs into small files that travel, and puts them together again."""

from __future__ import annotations

from pathlib import Path

from robustnorm.packing import (
    PackError,
    PackSettings,
    UnpackSettings,
    pack,
    size_in_bytes,
    unpack,
)
from robustnorm.runs import UsageError


def pack_files(settings: PackSettings, config_path: str | None = None) -> str:
    """Packs a folder; says into how many pieces.

    Raises:
        UsageError: When it cannot be packed.
    """
    try:
        written = pack(Path(settings.source), Path(settings.into), size_in_bytes(settings.piece))
    except PackError as error:
        raise UsageError(str(error)) from error
    total = sum(path.stat().st_size for path in written)
    return f"{settings.source}: {total / 1e6:.1f} MB in {len(written)} files, in {settings.into}"


def unpack_files(settings: UnpackSettings, config_path: str | None = None) -> str:
    """Unpacks a folder of pieces; says how many files.

    Raises:
        UsageError: When the pack is not whole, or a file is there with other content.
    """
    source, into = Path(settings.source), Path(settings.into)
    try:
        written = unpack(source, into, overwrite=settings.overwrite)
    except PackError as error:
        raise UsageError(str(error)) from error
    return f"{settings.source}: {len(written)} files, below {settings.into}"
