from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustnorm.system.errors import RefusedFileError, UserError


class DataError(UserError):
    """Data that cannot be used; the message names the file and what to do."""


class RefusedDataError(DataError, RefusedFileError):
    """A file of images is damaged or unsafe to read."""


@contextmanager
def refusing(path: Path, kind: str, repair: str) -> Iterator[None]:
    """Refuses a file if reading it within the block raises any exception, as a damaged one may.

    Args:
        path: The file.
        kind: What it is not, such as "a file of plain tensors".
        repair: What to do.

    Raises:
        RefusedDataError: In place of the library's exception.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise RefusedDataError(f"{path} is not {kind} ({reason}); {repair}") from error
