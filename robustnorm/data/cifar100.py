from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustnorm.data import unpacking
from robustnorm.data.arrays import dataset_of
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.pickles import read_pickle

_CLASSES = 100
_PUBLISHED = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
_FOLDERS = {
    "cifar-100-python": "cifar-100-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
}
_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"


def load_cifar100(root: Path, *, download: bool = False) -> Dataset:
    """Returns CIFAR-100 with its 100 fine classes: 50,000 training and 10,000 test images.

    Reads pickles without executing them. Reports mark python files other than the published ones,
    and all binary files, which have no published hash.

    Args:
        root: Folder of ``cifar-100-python``, ``cifar-100-binary`` or the archive of one, which is
            unpacked.
        download: Download the python version if none of them exists.

    Raises:
        DataError: When the files are missing or the download fails; a RefusedDataError when they
            are damaged.

    References:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    existing = unpacking.existing_versions(root, _FOLDERS)
    if download and not existing:
        unpacking.download(_URL, root / "cifar-100-python.tar.gz", _MD5)
    return read_cifar100(unpacking.unpacked_folder(root, *(existing or list(_FOLDERS.items()))[0]))


def read_cifar100(path: Path) -> Dataset:
    """Reads a folder of either version; raises errors like ``load_cifar100``."""
    binary = (path / "train.bin").is_file()
    splits, published = {}, not binary
    for split, md5 in _PUBLISHED.items():
        file = path / (f"{split}.bin" if binary else split)
        if not file.is_file():
            raise DataError(f"{file} is missing; download the archive again into {path.parent}")
        if binary:
            splits[split] = read_bytes(file, labels=2)
        else:
            splits[split] = read_values(file, "fine_labels", 32)
            published &= unpacking.is_published(file, md5)
    note = " (binary files, unverified)" if binary else " (not the published files)"
    return dataset_of(
        "CIFAR-100" + ("" if published else note),
        splits,
        str(path),
        classes=tuple(map(str, range(_CLASSES))),
        augmentation=Augmentation(padding=4, flip=True),
    )


def read_bytes(path: Path, labels: int) -> tuple[Tensor, Tensor]:
    """Returns the images and labels in a binary file of the CIFAR family.

    Args:
        path: The file: for each image its labels, one byte each, then 3 x 32 x 32 bytes.
        labels: Number of labels per image; the last one is used.

    Raises:
        RefusedDataError: When the file has another size.
    """
    rows, size = np.fromfile(path, np.uint8), labels + 3072
    if not len(rows) or len(rows) % size:
        raise RefusedDataError(
            f"{path} must hold {size} bytes per image, it has {len(rows)}; download it again"
        )
    rows = rows.reshape(-1, size)
    images = torch.from_numpy(rows[:, labels:].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(rows[:, labels - 1].astype(np.int64))


def read_values(path: Path, labels: str, size: int) -> tuple[Tensor, Tensor]:
    """Returns the images and labels in a pickle of the CIFAR family.

    Args:
        path: The file; it holds "data", uint8 (N, 3 size size), and labels.
        labels: Name of the labels.
        size: Height and width.

    Raises:
        RefusedDataError: On anything else.
    """
    values = read_pickle(path)
    data, found = values.get("data"), values.get(labels)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (3 * size * size,)
    ):
        raise RefusedDataError(
            f"{path} must hold 'data', bytes of (N, {3 * size * size}); download it again"
        )
    are_integers = isinstance(found, np.ndarray) or (
        isinstance(found, list) and all(type(label) is int for label in found)
    )
    if found is None or not are_integers or len(found) != len(data):
        raise RefusedDataError(
            f"{path} must hold '{labels}', a whole number for each of its {len(data)} images; "
            "download it again"
        )
    images = torch.from_numpy(data.reshape(-1, 3, size, size).copy())
    return images, torch.tensor(np.asarray(found, dtype=np.int64))
