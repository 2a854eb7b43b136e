from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.arrays import dataset_of
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.unpacking import download as fetch
from robustnorm.data.unpacking import is_published, unpacked_folder

_FOLDER, _ARCHIVE = "stl10_binary", "stl10_binary.tar.gz"
_URL = f"http://ai.stanford.edu/~acoates/stl10/{_ARCHIVE}"
_MD5 = "91f7769df0f17e558f3565bffb0c7dfb"
# The published files of images, by md5.
_IMAGES = {
    "train": "918c2871b30a85fa023e0c44e0bee87f",
    "test": "7f263ba9f9e0b06b93213547f721ac82",
}
_CLASSES = (
    *("airplane", "bird", "car", "cat", "deer"),
    *("dog", "horse", "monkey", "ship", "truck"),
)
_SIZE = 3 * 96 * 96


def load_stl10(root: Path, *, download: bool = False) -> Dataset:
    """Returns STL-10: 96 x 96 images, 5,000 for training and 8,000 for testing, no unlabelled ones.

    Args:
        root: Folder of ``stl10_binary`` or ``stl10_binary.tar.gz``.
        download: Download the archive if neither exists.

    Raises:
        DataError: When files are missing or the download fails; a RefusedDataError when one is
            damaged.

    References:
        Coates et al., An Analysis of Single-Layer Networks in Unsupervised Feature Learning, 2011.
    """
    if download and not (root / _FOLDER).is_dir():
        fetch(_URL, root / _ARCHIVE, _MD5)
    folder = unpacked_folder(root, _FOLDER, _ARCHIVE, lambda name: "unlabeled" not in name)
    arrays, published = {}, True
    for split, md5 in _IMAGES.items():
        images, labels = folder / f"{split}_X.bin", folder / f"{split}_y.bin"
        if not images.is_file() or not labels.is_file():
            raise DataError(
                f"{folder} lacks {images.name} or {labels.name}; download {_ARCHIVE} again"
            )
        arrays[split] = _pixels(images), np.fromfile(labels, np.uint8).astype(np.int64) - 1
        published &= is_published(images, md5)
    return dataset_of(
        "STL-10" if published else "STL-10 (not the published files)",
        arrays,
        str(folder),
        classes=_CLASSES,
        augmentation=Augmentation(padding=12, flip=True),
    )


def _pixels(path: Path) -> NDArray[np.uint8]:
    """Returns images (N, 3, 96, 96), which the file stores column by column."""
    values = np.fromfile(path, np.uint8)
    if not len(values) or len(values) % _SIZE:
        raise RefusedDataError(
            f"{path} must hold {_SIZE} bytes per image, it has {len(values)}; download it again"
        )
    return np.ascontiguousarray(values.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2))
