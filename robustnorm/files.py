from __future__ import annotations

import os
import socket
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Writes a file whole or not at all: a temporary one beside it, synced, then renamed.

    Args:
        path: Of the file.
        data: Its content.
        shared: Whether other processes, on any machine, may write the file at the same time.
    """
    writer = f".{socket.gethostname()}-{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
