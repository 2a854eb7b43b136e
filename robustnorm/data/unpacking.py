"""Archives of published data sets, unpacked beside themselves."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.system.archives import unpack
from robustnorm.system.errors import RefusedFileError


def unpacked_folder(root: Path, folder: str, archive: str) -> Path:
    """Returns ``root / folder``, unpacked from ``root / archive`` if it is not there yet.

    Raises:
        DataError: When neither is there; a RefusedDataError when the archive cannot be trusted.
    """
    if (root / folder).is_dir():
        return root / folder
    path = root / archive
    if not path.is_file():
        raise DataError(
            f"put {archive} or the folder {folder} into {root}, where neither is, or give another "
            "--data_root"
        )
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        unpacked = Path(temporary) / "unpacked"
        try:
            unpack(path, unpacked)
        except RefusedFileError as error:
            raise RefusedDataError(str(error)) from error
        if not (unpacked / folder).is_dir():
            raise RefusedDataError(f"{path} holds no folder {folder}; fetch it again")
        shutil.move(unpacked / folder, root / folder)
    return root / folder
