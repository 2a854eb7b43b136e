"""Data sets in a file written by ``torch.save``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from robustnorm.data.arrays import dataset_of, pair_up
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import refusing
from robustnorm.system.torch_files import check_storage, read_torch


def load_tensors(path: Path) -> Dataset:
    """Returns the images and labels in a ``.pt`` or ``.pth``, read as tensors only.

    Args:
        path: A dictionary with the names that ``arrays.pair_up`` accepts, or a pair (images,
            labels) of test images.

    Raises:
        DataError: When tensors are missing or hold no images; a RefusedDataError on other files.
    """
    with refusing(
        path,
        "a file of plain tensors",
        "write it again with torch.save({'x_test': images, 'y_test': labels}, ...)",
    ):
        content = read_torch(path)
        if isinstance(content, (tuple, list)) and len(content) == 2:
            content = dict(zip(("images", "labels"), content, strict=True))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        tensors = {str(name): v for name, v in content.items() if isinstance(v, Tensor)}
        check_storage(tensors)
    pairs = pair_up(list(tensors), str(path))
    return dataset_of(
        path.stem, {split: (tensors[x], tensors[y]) for split, (x, y) in pairs.items()}, str(path)
    )
