from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError
from robustnorm.data.image_folder import load_image_folder
from robustnorm.data.listing import ReadOptions
from robustnorm.data.unpacking import download as fetch

_NAME = "imagenette2-160"
_URL = f"https://s3.amazonaws.com/fast-ai-imageclas/{_NAME}.tgz"
_MD5 = "e793b78cc4c9e9a4ccc0c1155377a412"
_SIZE = 160


def load_imagenette(root: Path, how: ReadOptions, *, download: bool = False) -> Dataset:
    """Returns Imagenette: ten classes of ImageNet, 9,469 training and 3,925 test images.

    Args:
        root: Folder of ``imagenette2-160`` or ``imagenette2-160.tgz``.
        how: How to read the images; resized to 160 x 160, the length of the shorter side,
            unless another size is given.
        download: Download the archive if neither exists.

    Raises:
        DataError: When it is missing or the download fails; a RefusedDataError when it is damaged.

    References:
        Howard, Imagenette, 2019.
    """
    folder, archive = root / _NAME, root / f"{_NAME}.tgz"
    if not folder.is_dir() and not archive.is_file():
        if not download:
            raise DataError(
                f"Imagenette is not in {root}. Download it with --download true, or put "
                f"{archive.name} there"
            )
        fetch(_URL, archive, _MD5)
    how = how if how.resize is not None else replace(how, resize=_SIZE)
    return load_image_folder(folder if folder.is_dir() else archive, how)
