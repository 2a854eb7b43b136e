from __future__ import annotations

import os
import socket
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: a temporary one beside it, synced, then renamed.

    Processes that write the same file at once, on one machine or several, do not meet.
    """
    writer = f"{socket.gethostname()}-{os.getpid()}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
