"""Data sets of uint8 training and test images, and fixed ways of splitting them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from robustnorm.data.errors import DataError
from robustnorm.data.stored import StoredImages, is_stored
from robustnorm.system.escaping import for_terminal

# Which images are held out or sampled is fixed, the same for every run.
_DIVISION_SEED = 2102_11382
# Number of images on disk from which the mean and standard deviation of all are estimated.
_MEASURED = 1_000


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,), on one device.

    Args:
        images: A tensor, or ``StoredImages``, which give a tensor when indexed.
        labels: Labels of the images.

    Raises:
        DataError: On other shapes or types.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if (
            self.images.dtype != torch.uint8
            or len(self.images.shape) != 4
            or self.labels.dtype != torch.int64
            or self.labels.shape != self.images.shape[:1]
        ):
            raise DataError(
                "a split takes uint8 images (N, C, H, W) and int64 labels (N,), got "
                f"{self.images.dtype} {tuple(self.images.shape)} and "
                f"{self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, ids: Tensor) -> Split:
        if is_stored(self.images):  # Tensor.take does something else
            stored = cast(StoredImages, self.images)
            return Split(cast(Tensor, stored.take(ids)), self.labels[ids])
        return Split(self.images[ids], self.labels[ids])


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Args:
        padding: Zero pixels added on each side before a random crop to the original size.
        flip: Mirror left and right with probability one half.
        crop_area: Smallest relative area of a random crop that is scaled to the images' size; needs
            images on disk and a given size.
    """

    padding: int = 0
    flip: bool = False
    crop_area: float | None = None

    def changed(
        self, padding: int | None, flip: bool | None, crop_area: float | None = None
    ) -> Augmentation:
        """Returns other changes; None keeps padding or flip."""
        return Augmentation(
            self.padding if padding is None else padding,
            self.flip if flip is None else flip,
            crop_area,
        )


@dataclass(frozen=True)
class Dataset:
    """Labelled images for training and testing.

    Args:
        name: Name in reports.
        classes: Names of the classes, by label.
        train: Training images; empty for data that only serve evaluation.
        test: Test images.
        augmentation: Default augmentation of the training images.
        sha256: Hash of the content.

    Raises:
        DataError: When a label is not a class, there is no test image, or a name has characters
            that cannot be shown.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    augmentation: Augmentation
    sha256: str

    def __post_init__(self) -> None:
        for text in (self.name, *self.classes):
            if for_terminal(text) != text:
                raise DataError(
                    f"the name '{for_terminal(text)[:80]}' of the data or of a class has "
                    "characters that no report can show; rename the file or folder"
                )
        for title, split in (("training", self.train), ("test", self.test)):
            if not len(split) and split is self.test:
                raise DataError(f"{self.name} has no {title} images; add some")
            invalid = ((split.labels < 0) | (split.labels >= len(self.classes))).nonzero()
            if len(invalid):
                index = int(invalid[0])
                raise DataError(
                    f"{self.name}: label {int(split.labels[index])} of {title} image {index} "
                    f"is not in 0..{len(self.classes) - 1}; correct the labels"
                )

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel of the training images, in [0, 1]; 0 without training images."""
        return self._moments[0]

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the same values, never 0; 1 without training images."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        images, channels = self.train.images, self.train.images.shape[1]
        if not len(images):
            return (0.0,) * channels, (1.0,) * channels
        if is_stored(images):
            images = images[_permutation(len(images))[:_MEASURED]]
        counts = torch.stack(
            [
                torch.bincount(channel.flatten(), minlength=256).double()
                for channel in images.unbind(1)
            ]
        )
        values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
        mean = counts @ values / counts.sum(1)
        variance = counts @ values.square() / counts.sum(1) - mean.square()
        std = variance.clamp_min(1e-12).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())


def split_validation(
    split: Split, validation: int, limit: int | None = None
) -> tuple[Split, Split]:
    """Splits off validation images by a fixed permutation, independent of the seed.

    Args:
        split: All training images.
        validation: Number of images to hold out.
        limit: Number of training images to keep from the rest; all by default.

    Raises:
        DataError: When there are not enough images.
    """
    if not len(split):
        raise DataError("the data have no training images and only serve evaluations")
    if validation + (limit or 1) > len(split):
        raise DataError(
            f"{validation} validation and {limit or 'some'} training images are required, but the "
            f"data have {len(split)}; lower --validation or --train_limit"
        )
    order = _permutation(len(split))
    end = None if limit is None else validation + limit
    return split.take(order[validation:end]), split.take(order[:validation])


def subset(split: Split, limit: int | None) -> tuple[Tensor, Split]:
    """Returns the ids, ascending, and the images of a fixed sample, or of all without a limit.

    The sample is random, since images are sorted by class.

    Raises:
        DataError: When there are not enough images.
    """
    if limit is None:
        return torch.arange(len(split)), split
    if limit > len(split):
        raise DataError(f"{limit} images are required, but the data have {len(split)}")
    ids = _permutation(len(split))[:limit].sort().values
    return ids, split.take(ids)


def _permutation(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(_DIVISION_SEED))
