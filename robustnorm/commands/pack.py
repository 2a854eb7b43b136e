"""Cuts runs into small files that travel, and puts them together again."""

from __future__ import annotations

from pathlib import Path

from robustnorm.system.packing import (
    PackSettings,
    UnpackSettings,
    pack,
    size_in_bytes,
    unpack,
)


def pack_files(settings: PackSettings, config_path: str | None = None) -> str:
    """Packs a folder; says into how many pieces.

    Raises:
        UsageError: When it cannot be packed.
    """
    written = pack(Path(settings.source), Path(settings.into), size_in_bytes(settings.piece))
    total = sum(path.stat().st_size for path in written)
    return f"{settings.source}: {total / 1e6:.1f} MB in {len(written)} files, in {settings.into}"


def unpack_files(settings: UnpackSettings, config_path: str | None = None) -> str:
    """Unpacks a folder of pieces; says how many files.

    Raises:
        PackError: When the pack is not whole.
        UsageError: When a file is there with other content.
    """
    source, into = Path(settings.source), Path(settings.into)
    written = unpack(source, into, overwrite=settings.overwrite)
    return f"{settings.source}: {len(written)} files, below {settings.into}"
