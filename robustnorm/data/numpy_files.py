"""Data sets in numpy files: an ``.npz``, or several ``.npy`` files in a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.arrays import dataset_of, pair_up
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError, refusing
from robustnorm.system.untrusted import most_bytes

_ARRAYS = "a valid file of plain numpy arrays"
_REPAIR = "save it again with numpy.savez or numpy.save"
_LABELS = "labels"  # one file for all image files of CIFAR-10-C and similar sets


def load_npz(path: Path) -> Dataset:
    """Returns the data set in an ``.npz``, with the names that ``arrays.pair_up`` accepts.

    Raises:
        DataError: When arrays are missing or do not hold images; a RefusedDataError on pickled or
            damaged ones, or more than both 16 MB and 100 times the file's size.
    """
    with refusing(path, _ARRAYS, _REPAIR):
        with zipfile.ZipFile(path) as archive:
            size, most = sum(m.file_size for m in archive.infolist()), path.stat().st_size
        if size > most_bytes(most):
            raise ValueError(f"it holds more than {most_bytes(most) / 1e6:.0f} MB")
        with np.load(path, allow_pickle=False) as arrays:
            pairs = pair_up(list(arrays.files), str(path))
            found = {split: tuple(arrays[name] for name in names) for split, names in pairs.items()}
    return dataset_of(path.stem, {split: (x, y) for split, (x, y) in found.items()}, str(path))


def load_npy(path: Path) -> Dataset:
    """Returns the images in an ``.npy`` with the labels beside it; images stay in the file.

    ``x_test.npy`` needs ``y_test.npy`` and, for training, ``x_train.npy`` and ``y_train.npy``; any
    other file, such as those of CIFAR-10-C, needs ``labels.npy`` with the same number of rows, even
    if there are such pairs beside it.

    Args:
        path: A file of images, or the folder of ``x_test.npy``.

    Raises:
        DataError: When a file is missing or holds no images; a RefusedDataError when it is damaged.
    """
    folder = path if path.is_dir() else path.parent
    names = sorted(file.stem for file in folder.glob("*.npy"))
    others = [name for name in names if name != _LABELS]
    name = folder.resolve().name
    if path.is_dir():
        if _LABELS in names:
            first = next(iter(others), "NAME")
            raise DataError(
                f"{path} holds several sets of images; choose one with --data {path}/{first}.npy"
            )
        pairs = pair_up(names, str(folder))
    elif _LABELS in names and not _has_partner(path.stem, others):
        pairs, name = {"test": (path.stem, _LABELS)}, f"{name} {path.stem}"
    else:
        pairs = pair_up(others, str(folder))
        if not _has_partner(path.stem, others):
            raise DataError(
                f"{path} needs {_LABELS}.npy beside it, with a label for each of its images"
            )
    arrays = {split: (_map(folder, x), _map(folder, y)) for split, (x, y) in pairs.items()}
    return dataset_of(name, arrays, str(path))


def _has_partner(stem: str, names: list[str]) -> bool:
    """Returns whether a file is one of the pairs x_test and y_test, x_train and y_train."""
    try:
        return any(stem in pair for pair in pair_up(names, "").values())
    except DataError:  # there is no pair of test images
        return False


def _map(folder: Path, name: str) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    with refusing(path, _ARRAYS, _REPAIR):
        # Copy on write, since torch warns about read-only arrays; nothing is written.
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array
