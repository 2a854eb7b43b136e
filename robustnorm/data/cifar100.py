from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.pickles import read_pickle
from robustnorm.data.unpacking import unpacked_folder

_FOLDER = "cifar-100-python"
_CLASSES = 100
_PUBLISHED = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


def load_cifar100(root: Path) -> Dataset:
    """Returns CIFAR-100 with its 100 fine classes: 50,000 images to train, 10,000 to test.

    Its pickles are read without executing them. Reports name files other than the published ones as
    such.

    Args:
        root: Folder that holds ``cifar-100-python``, or ``cifar-100-python.tar.gz``, which is
            unpacked.

    Raises:
        DataError: When the files are missing; a RefusedDataError when they are damaged.

    References:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder = unpacked_folder(root, _FOLDER, f"{_FOLDER}.tar.gz")
    parts, content, published = {}, hashlib.sha256(), True
    for part, md5 in _PUBLISHED.items():
        path = folder / part
        if not path.is_file():
            raise DataError(f"{path} is missing; fetch {_FOLDER}.tar.gz again and put it in {root}")
        values = read_pickle(path)
        parts[part] = as_split(path, values, "fine_labels", 32)
        content.update(parts[part].images.numpy().tobytes() + parts[part].labels.numpy().tobytes())
        published &= hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5
    return Dataset(
        name="CIFAR-100" if published else "CIFAR-100 (not the published files)",
        classes=tuple(map(str, range(_CLASSES))),
        train=parts["train"],
        test=parts["test"],
        augmentation=Augmentation(padding=4, flip=True),
        sha256=content.hexdigest(),
    )


def as_split(path: Path, values: dict[str, Any], labels: str, size: int) -> Split:
    """Returns the images and labels that a pickle of the CIFAR family holds.

    Args:
        path: Of the file, for errors.
        values: What it holds: "data", uint8 (N, 3 size size), and labels.
        labels: Their name.
        size: Height and width.

    Raises:
        RefusedDataError: On anything else.
    """
    data, found = values.get("data"), values.get(labels)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (3 * size * size,)
    ):
        raise RefusedDataError(
            f"{path} must hold 'data', bytes of (N, {3 * size * size}); fetch it again"
        )
    whole = isinstance(found, np.ndarray) or (
        isinstance(found, list) and all(type(label) is int for label in found)
    )
    if found is None or not whole or len(found) != len(data):
        raise RefusedDataError(
            f"{path} must hold '{labels}', a whole number for each of its {len(data)} images; "
            "fetch it again"
        )
    images = torch.from_numpy(data.reshape(-1, 3, size, size).copy())
    return Split(images, torch.tensor(np.asarray(found, dtype=np.int64)))
