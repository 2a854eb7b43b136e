"""Batches of augmented training images, reproducible from (seed, epoch, image id)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustnorm.data.dataset import Augmentation, Split
from robustnorm.data.errors import DataError


class Batch(NamedTuple):
    """Images float (N, C, H, W) in [0, 1], labels int64 (N,), and the images' ids int64 (N,)."""

    images: Tensor
    labels: Tensor
    ids: Tensor


def to_float(images: Tensor) -> Tensor:
    """Returns uint8 images as float32 in [0, 1], floating-point ones as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Returns the number of whole batches in an epoch.

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
    own_part: Callable[[Tensor], Tensor] = lambda ids: ids,
) -> Iterator[Batch]:
    """Yields the shuffled, augmented batches of one epoch, on the device of the images.

    Order and augmentation follow from (seed, epoch); an image's crop and flip from (seed, epoch,
    image id), whatever its batch. The last incomplete batch is left out: its statistics would be
    those of a few images. Nothing waits for the device.

    Args:
        split: Training images.
        batch_size: Images a batch.
        seed: Of order and augmentation.
        epoch: From 0.
        augmentation: What to do to the images.
        channels_last: Memory format of the batches.
        first_step: Batches of the epoch to leave out.
        own_part: From a batch's image ids (N,) to those that are yielded, where several processes
            share it.

    Raises:
        DataError: When there is no whole batch.
    """
    n, device = len(split), split.images.device
    steps = steps_per_epoch(n, batch_size)
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> 1))
    order = torch.randperm(n, generator=generator).to(device)
    offsets = torch.randint(0, 2 * augmentation.padding + 1, (n, 2), generator=generator).to(device)
    flips = (torch.rand(n, generator=generator) < 0.5).to(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for ids in order[: steps * batch_size].view(steps, batch_size)[first_step:]:
        ids = own_part(ids)
        images = split.images[ids]
        if augmentation.padding:
            images = _crop(images, augmentation.padding, offsets[ids])
        if augmentation.flip:
            images = torch.where(flips[ids, None, None, None], images.flip(3), images)
        images = to_float(images).contiguous(memory_format=memory_format)
        yield Batch(images, split.labels[ids], ids)


def _crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Returns from each zero-padded image the window whose corner (row, column) is given."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)
    each = torch.arange(n, device=images.device)[:, None, None]
    # Advanced indices around a slice put their dimensions first: (N, H, W, C).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
