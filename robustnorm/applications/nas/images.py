"""The images of a search: reduced in size, stored as bytes, split between weights and alpha."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import torch
from torch.nn import functional as F

from robustnorm.data.batches import Batch, epoch_batches, steps_per_epoch
from robustnorm.data.dataset import Augmentation, Dataset, Split, split_validation, subset
from robustnorm.data.errors import DataError
from robustnorm.settings.nas import SearchSettings

# Number of images averaged at once; as floats they take four times the memory.
_CHUNK = 2000


class SearchImages(NamedTuple):
    """Training images for the weights and for alpha, and their augmentations."""

    weights: Split
    alpha: Split
    augmentation: Augmentation


def reduced(dataset: Dataset, size: int | None) -> Dataset:
    """Returns the data set averaged down to the given height; unchanged if it has that height.

    Raises:
        DataError: When ``size`` does not divide the images' height.
    """
    height, width = dataset.train.images.shape[2:]
    if size is None or size == height:
        return dataset
    if size > height or height % size or width % (height // size):
        raise DataError(
            f"image_size must divide the height of {dataset.name}'s images, {height}, got {size}"
        )
    factor = height // size
    train, test = (_averaged(split, factor) for split in (dataset.train, dataset.test))
    content = hashlib.sha256(f"{dataset.sha256} averaged {factor}x{factor}".encode())
    padding = dataset.augmentation.padding // factor
    return Dataset(
        name=f"{dataset.name} at {width // factor}x{size}",
        classes=dataset.classes,
        train=train,
        test=test,
        augmentation=replace(dataset.augmentation, padding=padding),
        sha256=content.hexdigest(),
    )


def _averaged(split: Split, factor: int) -> Split:
    parts = [
        F.avg_pool2d(part.float(), factor).round().to(torch.uint8)
        for part in torch.split(split.images, _CHUNK)
    ]
    return Split(torch.cat(parts), split.labels)


def divide(dataset: Dataset, settings: SearchSettings) -> SearchImages:
    """Divides the images between weights and alpha, in the same way for every seed."""
    if settings.alpha_split == "train":
        weights, alpha = split_validation(dataset.train, len(dataset.train) // 2)
    else:
        weights, alpha = dataset.train, subset(dataset.test, max(1, len(dataset.test) // 2))[1]
    augmentation = dataset.augmentation.changed(settings.padding, settings.flip)
    return SearchImages(weights, alpha, augmentation)


def batches_from(
    split: Split, settings: SearchSettings, augmentation: Augmentation, part: int, step: int
) -> Iterator[Batch]:
    """Yields the batches of a step and of all later steps, epoch after epoch.

    Args:
        split: Images for the weights or for alpha.
        settings: Batch size and seed.
        augmentation: Augments the images.
        part: 0 for the weights, 1 for alpha; the two orders are independent.
        step: The first step.
    """
    epoch, first_step = divmod(step, steps_per_epoch(len(split), settings.batch_size))
    for following in count(epoch):
        yield from epoch_batches(
            split,
            batch_size=settings.batch_size,
            seed=2 * settings.seed + part,
            epoch=following,
            augmentation=augmentation,
            channels_last=True,
            first_step=first_step if following == epoch else 0,
        )


def path_generator(step: int, seed: int, part: int) -> torch.Generator:
    """Returns the generator that draws the paths of a step; it does not depend on the norm.

    Args:
        step: Step of the search.
        seed: Seed of the search.
        part: 0 for the step on the weights, 1 for the step on alpha.
    """
    digest = hashlib.sha256(f"{seed} {step} {part}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
