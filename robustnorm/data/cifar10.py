from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.data.errors import DataError


def load_cifar10(root: Path, *, download: bool = False) -> Dataset:
    """Returns CIFAR-10 as torchvision reads it: 50,000 images to train, 10,000 to test.

    Args:
        root: Folder that holds, or is to hold, ``cifar-10-batches-py``.
        download: Fetch the archive when it is not there.

    Raises:
        DataError: When the files are missing or damaged, the download fails, or torchvision cannot
            be imported.

    References:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    try:
        from torchvision.datasets import CIFAR10
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"torchvision cannot be imported ({error}). It must match torch {torch.__version__}: "
            "install the pair from one source. Or give CIFAR-10 as a folder of images: --data PATH"
        ) from error
    try:
        parts = [CIFAR10(str(root), train=train, download=download) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(
            f"CIFAR-10 is not in {root}, or damaged ({error}). Let it be fetched with "
            "--download true, put cifar-10-batches-py there, or give a folder: --data PATH"
        ) from error
    except OSError as error:
        raise DataError(
            f"CIFAR-10 could not be fetched ({error}). Put cifar-10-batches-py into {root}, or "
            "give a folder of images: --data PATH"
        ) from error
    train, test = (_split(part) for part in parts)
    content = hashlib.sha256()
    for split in (train, test):
        content.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    return Dataset(
        name="CIFAR-10",
        classes=tuple(parts[0].classes),
        train=train,
        test=test,
        augmentation=Augmentation(padding=4, flip=True),
        sha256=content.hexdigest(),
    )


def _split(part: Any) -> Split:
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(part.targets))
