"""Batches of augmented training images, reproducible from (seed, epoch, image id)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from robustnorm.data.changes import draw_changes
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.data.errors import DataError
from robustnorm.data.loading import load
from robustnorm.data.stored import StoredImages, is_stored


class Batch(NamedTuple):
    """Images float (N, C, H, W) in [0, 1], labels int64 (N,), and the images' ids int64 (N,)."""

    images: Tensor
    labels: Tensor
    ids: Tensor


def to_float(images: Tensor) -> Tensor:
    """Converts uint8 images to float32 in [0, 1]; returns floating-point images unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Returns the number of complete batches in an epoch.

    Raises:
        DataError: When there is none.
    """
    if batch_size > images:
        raise DataError(
            f"a batch of {batch_size} is larger than the {images} training images; "
            f"set --batch_size to at most {images}"
        )
    return images // batch_size


def epoch_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augmentation: Augmentation,
    channels_last: bool = False,
    first_step: int = 0,
    share_of_process: Callable[[Tensor], Tensor] = lambda ids: ids,
) -> Iterator[Batch]:
    """Yields the shuffled, augmented batches of one epoch, on the device of the images.

    The order depends on (seed, epoch); an image's crop and flip on (seed, epoch, image id), not on
    its batch. An incomplete last batch is dropped: its statistics would be those of a few images.
    Nothing synchronizes with the device.

    Args:
        split: Training images.
        batch_size: Images per batch.
        seed: Seed of order and augmentation.
        epoch: From 0.
        augmentation: Random changes of the images.
        channels_last: Use the channels-last memory format.
        first_step: Number of batches of the epoch to skip.
        share_of_process: Selects from a batch's image ids (N,) those of this process.

    Raises:
        DataError: When there is no complete batch.
    """
    n, device = len(split), split.images.device
    steps = steps_per_epoch(n, batch_size)
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> 1))
    order = torch.randperm(n, generator=generator)
    changes = draw_changes(n, augmentation, generator)
    rows = order[: steps * batch_size].view(steps, batch_size)[first_step:]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    augmented: Iterator[tuple[Tensor, Tensor]]  # images and their ids
    if is_stored(split.images):
        augmented = load(cast(StoredImages, split.images), changes, map(share_of_process, rows))
    else:
        if augmentation.crop_area is not None:
            raise DataError("crop_area needs images that stay on disk; give --stream and --resize")
        changes = changes.to(device)
        augmented = (
            (changes.apply(split.images[ids], ids), ids)
            for ids in map(share_of_process, rows.to(device))
        )
    for images, ids in augmented:
        images = to_float(images.to(device)).contiguous(memory_format=memory_format)
        yield Batch(images, split.labels[ids.to(device)], ids.to(device))
