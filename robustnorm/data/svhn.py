from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.arrays import dataset_of
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.unpacking import download as fetch
from robustnorm.data.unpacking import is_published

_URL = "http://ufldl.stanford.edu/housenumbers"
# The published files, by md5.
_FILES = {
    "train": ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
    "test": ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
}


def load_svhn(root: Path, *, download: bool = False) -> Dataset:
    """Returns SVHN: 32 x 32 house numbers, 73,257 for training, 26,032 for testing, never mirrored.

    Args:
        root: Folder with ``train_32x32.mat`` and ``test_32x32.mat``, directly or in a subfolder
            ``svhn``.
        download: Download them if they do not exist.

    Raises:
        DataError: When files are missing or the download fails; a RefusedDataError when one is
            not the published file.

    References:
        Netzer et al., Reading Digits in Natural Images, NIPS workshop 2011.
    """
    folder = root / "svhn" if (root / "svhn").is_dir() else root
    arrays = {}
    for split, (name, md5) in _FILES.items():
        path = folder / name
        if download:
            fetch(f"{_URL}/{name}", path, md5)
        if not path.is_file():
            raise DataError(
                f"SVHN needs {name} in {folder}; put it there, or download it with --download true"
            )
        if not is_published(path, md5):  # scipy's reader is unsafe with others
            raise RefusedDataError(f"{path} is not the published file of SVHN; download it again")
        arrays[split] = _read(path)
    return dataset_of(
        "SVHN",
        arrays,
        str(folder),
        classes=tuple("0123456789"),
        augmentation=Augmentation(padding=4),
    )


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns images (N, H, W, 3) and labels; the files label the digit 0 as 10."""
    from scipy.io import loadmat

    values = loadmat(path, variable_names=["X", "y"])
    return values["X"].transpose(3, 0, 1, 2), values["y"].astype(np.int64) % 10
