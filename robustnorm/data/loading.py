"""Decodes and augments images on disk in other processes while the network trains."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import data

from robustnorm.data.changes import Changes
from robustnorm.data.errors import DataError
from robustnorm.data.stored import StoredImages
from robustnorm.system.errors import UserError

_T = TypeVar("_T")


def load(
    images: StoredImages, changes: Changes, batches: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields augmented images, uint8 (B, C, H, W) on the CPU, and their ids, batch by batch.

    The result depends only on ``changes``, not on the number of processes.

    Args:
        images: Training images, decoded by their ``workers`` processes, or by this one if 0.
        changes: Augmentation of each image.
        batches: Ids of each batch, int64 (B,).

    Raises:
        DataError: When an image cannot be read or used, or a process ended.
    """
    if changes.crops is not None and images.size is None:
        raise DataError("crop_area needs a size for the images; give --resize")
    ids = list(batches)
    loader = data.DataLoader(
        _Augmented(images, changes),
        batch_sampler=ids,  # type: ignore[arg-type] # rows of a tensor work, too
        num_workers=images.workers,
        collate_fn=_as_is,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # leaves the global one unchanged
    )
    try:
        for batch, found in zip(ids, loader, strict=True):
            if isinstance(found, UserError):
                raise found
            yield found, batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a process that decodes images ended ({str(error).partition(chr(10))[0]}); if "
            "memory is short, use fewer with --data_workers 1"
        ) from error


class _Augmented(data.Dataset[Tensor]):
    def __init__(self, images: StoredImages, changes: Changes) -> None:
        self._images, self._changes = images, changes

    def __getitems__(self, ids: Tensor) -> Tensor | UserError:
        try:
            crops = [self._changes.crop(row) for row in ids.tolist()]
            return self._changes.apply(self._images.decode(ids.tolist(), crops), ids)
        except UserError as error:  # torch would wrap it in a traceback
            return error


def _as_is(batch: _T) -> _T:
    return batch


def _ignore_signals(_: int) -> None:
    """Ignores signals that tell all processes to end; the training process handles them."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
