"""Data sets in files of numpy: an ``.npz``, or ``.npy`` files beside each other."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.arrays import dataset_of, pair_up
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.system.errors import UserError
from robustnorm.system.untrusted import most_bytes

_LABELS = "labels"  # beside the images of CIFAR-10-C and its kin: one file for all of them


def load_npz(path: Path) -> Dataset:
    """Returns the data set in an ``.npz``, named as ``arrays.pair_up`` tells.

    Raises:
        DataError: When arrays are missing or no images; a RefusedDataError on pickled or damaged
            ones, or more than 16 MB and 100 times the file's size.
    """
    with _sound(path):
        with zipfile.ZipFile(path) as archive:
            size, most = sum(m.file_size for m in archive.infolist()), path.stat().st_size
        if size > most_bytes(most):
            raise ValueError(f"it holds more than {most_bytes(most) / 1e6:.0f} MB")
        with np.load(path, allow_pickle=False) as arrays:
            parts = pair_up(list(arrays.files), str(path))
            found = {part: tuple(arrays[name] for name in names) for part, names in parts.items()}
    return dataset_of(path.stem, {part: (x, y) for part, (x, y) in found.items()}, str(path))


def load_npy(path: Path) -> Dataset:
    """Returns the images in an ``.npy`` and the labels beside them; they stay on disk.

    Beside ``x_test.npy`` lie ``y_test.npy`` and, to train on, ``x_train.npy`` and ``y_train.npy``;
    beside any other, as those of CIFAR-10-C, ``labels.npy``, whose rows are those of the images.

    Args:
        path: A file of images, or the folder of ``x_test.npy``.

    Raises:
        DataError: When a file is missing or holds no images; a RefusedDataError when it is damaged.
    """
    folder = path if path.is_dir() else path.parent
    names = sorted(file.stem for file in folder.glob("*.npy"))
    if path.is_dir() or not (folder / f"{_LABELS}.npy").is_file():
        if path.is_dir() and _LABELS in names:
            first = next((name for name in names if name != _LABELS), "NAME")
            raise DataError(
                f"{path} holds several sets of images; choose one with --data {path}/{first}.npy"
            )
        parts, name = pair_up(names, str(folder)), folder.resolve().name
    else:
        parts, name = {"test": (path.stem, _LABELS)}, f"{folder.resolve().name} {path.stem}"
    arrays = {part: (_map(folder, x), _map(folder, y)) for part, (x, y) in parts.items()}
    return dataset_of(name, arrays, str(path))


def _map(folder: Path, name: str) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    with _sound(path):
        # Changes, which there are none of, would stay in memory; torch warns of what is read-only.
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    # Numpy raises almost anything on a damaged file.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise RefusedDataError(
            f"{path} is no sound file of plain numpy arrays ({reason}); save it anew with "
            "numpy.savez or numpy.save"
        ) from error
