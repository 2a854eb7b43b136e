"""Converts arrays from other sources to images and labels of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.data.errors import DataError

# Accepted names of images and labels, in lower case; "{}" is train or test.
_PAIRS = (
    *(("x_{}", "y_{}"), ("{}_x", "{}_y"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}")),
    *(("{}_data", "{}_labels"), ("{}_data", "{}_targets"), ("data_{}", "labels_{}")),
)
_ALONE = (
    *(("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "targets")),
    *(("images", "targets"), ("image", "label"), ("arr_0", "arr_1")),
)
# Accepted distance of values times 255 from whole numbers, as float16 rounds in [0, 1].
_ROUNDING = 0.07
# ImageNet has 21,843 classes at most; labels far above that are damage.
MOST_CLASSES = 100_000


def pair_up(names: list[str], where: str) -> dict[str, tuple[str, str]]:
    """Returns the names of images and labels for "train" and "test", or only for "test".

    A pair without "train" or "test" in its names holds test images.

    Args:
        names: The available names.
        where: The file, for errors.

    Raises:
        DataError: When no test images and labels are among them.

    Examples:
        >>> pair_up(["x_train", "y_train", "X_test", "Y_test"], "a.npz")
        {'test': ('X_test', 'Y_test'), 'train': ('x_train', 'y_train')}
    """
    given = {name.lower(): name for name in names}
    found = dict[str, tuple[str, str]]()
    for split, spellings in {"test": ("test", "val"), "train": ("train",)}.items():
        pairs = [(a.format(s), b.format(s)) for s in spellings for a, b in _PAIRS]
        for images, labels in (*pairs, *(_ALONE if split == "test" else ())):
            if split not in found and images in given and labels in given:
                found[split] = given[images], given[labels]
    if "test" not in found:
        raise DataError(
            f"{where} must hold x_test and y_test, or test_images and test_labels, and for "
            "training the same with train; it holds "
            f"{', '.join(sorted(names)[:8]) or 'nothing'}"
        )
    return found


def dataset_of(
    name: str,
    arrays: Mapping[str, tuple[Any, Any]],
    where: str,
    *,
    classes: tuple[str, ...] | None = None,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Builds a data set from arrays.

    Args:
        name: Name in reports.
        arrays: Images and labels for "train" and "test", or only for "test".
        where: The file, for errors.
        classes: Names of the classes, by label; by default numbers up to the largest label.
        augmentation: Augmentation of training images; by default mirroring, and random crops after
            padding by an eighth of the height.

    Raises:
        DataError: When an array does not hold images or labels.
    """
    splits = {
        split: Split(as_images(images, where), as_labels(labels, len(images), where))
        for split, (images, labels) in arrays.items()
    }
    test = splits["test"]
    shape = test.images.shape[1:]
    nothing = Split(torch.empty((0, *shape), dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    train = splits.get("train", nothing)
    if train.images.shape[1:] != shape:
        raise DataError(
            f"{where} has training images of {tuple(train.images.shape[1:])} and test images of "
            f"{tuple(shape)} (channels, height, width); both must have the same size"
        )
    content = hashlib.sha256()
    for split in (train, test):
        for rows in torch.split(torch.arange(len(split)), 10_000):
            content.update(split.images[rows].contiguous().numpy().data)
        content.update(split.labels.numpy().data)
    most = max((int(split.labels.max()) for split in (train, test) if len(split)), default=0)
    if most >= MOST_CLASSES:
        raise DataError(f"{where} has the label {most}, labels must be below {MOST_CLASSES:,}")
    return Dataset(
        name=name,
        classes=classes or tuple(map(str, range(most + 1))),
        train=train,
        test=test,
        augmentation=augmentation or Augmentation(padding=shape[1] // 8, flip=True),
        sha256=content.hexdigest(),
    )


def as_images(values: Any, where: str) -> Tensor:
    """Converts an array (N, H, W), (N, H, W, C) or (N, C, H, W) to uint8 images (N, C, H, W).

    Values are bytes, whole numbers up to 255, floating-point numbers in [0, 1] that are whole
    numbers divided by 255, or true for white and false for black.

    Raises:
        DataError: On other shapes and values.
    """
    images = _tensor(values, where)
    if images.dim() == 3:
        images = images[:, None]
    elif images.dim() == 4 and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"{where} must hold images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or "
            f"3 channels, got {tuple(images.shape)}"
        )
    if images.dtype == torch.bool:
        return images.to(torch.uint8) * 255
    if images.dtype == torch.uint8 or not len(images):
        return images.to(torch.uint8)
    low, high = images.min().item(), images.max().item()
    scaled = images.double() * (255 if images.is_floating_point() and high <= 1 else 1)
    if not (low >= 0 and high <= 255 and (scaled - scaled.round()).abs().max() <= _ROUNDING):
        raise DataError(
            f"{where} must hold images of 8 bits: whole numbers from 0 to 255, or these divided by "
            f"255; got values from {low:.4g} to {high:.4g}. Save them without normalization"
        )
    return scaled.round().to(torch.uint8)


def as_labels(values: Any, count: int, where: str) -> Tensor:
    """Converts whole numbers (N,) or (N, 1), or one-hot rows (N, K), to labels int64 (N,).

    Raises:
        DataError: On anything else.
    """
    labels = _tensor(values, where)
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() == 2 and len(labels) and ((labels == 1).sum(1) == (labels != 0).sum(1)).all():
        labels = labels.argmax(1) if ((labels == 1).sum(1) == 1).all() else labels
    if labels.shape != (count,) or labels.is_complex() or (labels.double() % 1 != 0).any():
        raise DataError(
            f"{where} must hold a label for each of its {count} images, a whole number from 0, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    return labels.to(torch.int64)


def _tensor(values: Any, where: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise DataError(f"{where} must hold arrays of numbers, got {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
