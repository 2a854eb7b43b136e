from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from robustnorm.data import unpacking
from robustnorm.data.arrays import dataset_of
from robustnorm.data.cifar100 import read_bytes, read_values
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.data.errors import DataError

_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# Files of the training images, then of the test images, with the published md5.
_PYTHON = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_FOLDERS = {
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
}
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_MD5 = "c58f30108f718f92721af3b95e74349a"


def load_cifar10(root: Path, *, download: bool = False) -> Dataset:
    """Returns CIFAR-10: 50,000 training and 10,000 test images.

    Reads the python or the binary version, from a folder or an archive, without executing anything.
    Reports mark python files other than the published ones, and all binary files, which have no
    published hash.

    Args:
        root: Folder of ``cifar-10-batches-py``, ``cifar-10-batches-bin``,
            ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``.
        download: Download the python version if none of them exists.

    Raises:
        DataError: When the files are missing or the download fails; a RefusedDataError when they
            are damaged.

    References:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    if download and not unpacking.existing_versions(root, _FOLDERS):
        unpacking.download(_URL, root / "cifar-10-python.tar.gz", _MD5)
    existing = unpacking.existing_versions(root, _FOLDERS)
    if not existing:
        raise DataError(
            f"CIFAR-10 is not in {root}. Download it with --download true, put one of "
            f"{', '.join(_FOLDERS.values())} there, or give a folder of images: --data PATH"
        )
    return read_cifar10(unpacking.unpacked_folder(root, *existing[0]))


def read_cifar10(path: Path) -> Dataset:
    """Reads a folder of either version; raises errors like ``load_cifar10``."""
    python = (path / "data_batch_1").is_file()
    batches, note = _read_python(path) if python else _read_binary(path)
    images, labels = zip(*batches[:-1], strict=True)
    return dataset_of(
        f"CIFAR-10{note}",
        {"train": (torch.cat(images), torch.cat(labels)), "test": batches[-1]},
        str(path),
        classes=_CLASSES,
        augmentation=Augmentation(padding=4, flip=True),
    )


def _read_python(folder: Path) -> tuple[list[tuple[Tensor, Tensor]], str]:
    """Returns the batches, test images last, and a note for reports."""
    batches, published = [], True
    for name, md5 in _PYTHON.items():
        path = _require(folder / name)
        batches.append(read_values(path, "labels", 32))
        published &= unpacking.is_published(path, md5)
    return batches, "" if published else " (not the published files)"


def _read_binary(folder: Path) -> tuple[list[tuple[Tensor, Tensor]], str]:
    """Returns the batches, test images last, and a note for reports."""
    paths = [_require(folder / f"{name}.bin") for name in _PYTHON]
    return [read_bytes(path, labels=1) for path in paths], " (binary files, unverified)"


def _require(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} is missing; download the archive again into {path.parents[1]}")
    return path
