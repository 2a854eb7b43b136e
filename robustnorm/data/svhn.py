from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.arrays import dataset_of
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.unpacking import download as fetch
from robustnorm.data.unpacking import is_published
from robustnorm.system.untrusted import most_bytes

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
            damaged.

    References:
        Netzer et al., Reading Digits in Natural Images, NIPS workshop 2011.
    """
    folder = root / "svhn" if (root / "svhn").is_dir() else root
    arrays, published = {}, True
    for part, (name, md5) in _FILES.items():
        path = folder / name
        if download:
            fetch(f"{_URL}/{name}", path, md5)
        if not path.is_file():
            raise DataError(
                f"SVHN needs {name} in {folder}; put it there, or download it with --download true"
            )
        arrays[part] = _read(path)
        published &= is_published(path, md5)
    return dataset_of(
        "SVHN" if published else "SVHN (not the published files)",
        arrays,
        str(folder),
        classes=tuple("0123456789"),
        augmentation=Augmentation(padding=4),
    )


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns images (N, H, W, 3) and labels; the files label the digit 0 as 10."""
    try:
        from scipy.io import loadmat, whosmat

        shapes: dict[str, Any] = {name: shape for name, shape, _ in whosmat(path)}
        size = sum(int(np.prod(shape, dtype=object)) for shape in shapes.values())
        if size > most_bytes(path.stat().st_size):
            raise ValueError("it holds too many values for its size")
        values = loadmat(path, variable_names=["X", "y"])
        images, labels = values["X"], values["y"]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"X is {images.dtype} of shape {images.shape}")
    except MemoryError:
        raise
    # scipy may raise anything on a damaged file.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise RefusedDataError(
            f"{path} is not a file of SVHN ({reason}); fetch it again"
        ) from error
    return images.transpose(3, 0, 1, 2), labels.astype(np.int64) % 10
