"""Downloads and unpacks archives of published data sets."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import torch

from robustnorm.data.cache import locked
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.system.archives import unpack
from robustnorm.system.errors import RefusedFileError
from robustnorm.system.files import move, sync

# Of data_batch_1, data_batch_1.bin, batches.meta, class_names.txt and readme.html.
_SUFFIXES = {"", ".bin", ".meta", ".txt", ".html"}


def unpacked_folder(
    root: Path, folder: str, archive: str, wanted: Callable[[str], bool] = lambda _: True
) -> Path:
    """Returns ``root / folder``, unpacked from ``root / archive`` if it does not exist yet.

    Unpacks only files of ``folder`` with the suffixes of data sets, so that an archive brings no
    program into ``data_root``.

    Args:
        root: Folder of both.
        folder: Folder in the archive.
        archive: Name of the archive.
        wanted: Selects among these files.

    Raises:
        DataError: When neither exists; a RefusedDataError when the archive is damaged or unsafe to
            read.
    """
    if (root / folder).is_dir():
        return root / folder
    path = root / archive
    if not path.is_file():
        raise DataError(
            f"neither {archive} nor the folder {folder} is in {root}; put one there, or give "
            "another --data_root"
        )
    with locked(root / folder):
        temporary = root / f".{folder}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
        try:
            if not (root / folder).is_dir():
                unpack(path, temporary, lambda name: _is_data(name, folder) and wanted(name))
                if not (temporary / folder).is_dir():
                    raise RefusedDataError(f"{path} holds no folder {folder}; download it again")
                move(temporary / folder, root / folder)
        except RefusedFileError as error:
            raise RefusedDataError(str(error)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return root / folder


def existing_versions(root: Path, folders: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the folders, with their archives, of which one or the other is in ``root``."""
    return [
        (folder, archive)
        for folder, archive in folders.items()
        if (root / folder).is_dir() or (root / archive).is_file()
    ]


def _is_data(name: str, folder: str) -> bool:
    path = PurePosixPath(name)
    return path.parts[0] == folder and path.suffix in _SUFFIXES


def download(url: str, path: Path, md5: str) -> None:
    """Downloads a published file, unless it exists.

    Args:
        url: Where it is published.
        path: The local file.
        md5: Published hash of its content.

    Raises:
        DataError: When it cannot be downloaded or has another hash; nothing is left behind.
    """
    if path.is_file():
        return
    with locked(path):
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            if not path.is_file():
                torch.hub.download_url_to_file(url, str(temporary))
                if (found := _md5(temporary)) != md5:
                    raise OSError(f"its md5 is {found}, the published one {md5}")
                sync(temporary)
                move(temporary, path)
        except OSError as error:
            raise DataError(
                f"{url} could not be downloaded ({error}); download it by other means and put it "
                f"into {path.parent}"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def is_published(path: Path, md5: str) -> bool:
    """Returns whether a file has the md5 of the published one."""
    return _md5(path) == md5


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
