"""Images that stay encoded on disk: of as many as there are, only those asked for are in memory."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustnorm.data.decoding import Crop, Shape, decode
from robustnorm.data.errors import RefusedDataError


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded images, each in a file of its own or all end to end in one.

    Args:
        root: The folder of the files, or the one file.
        names: Of the files, relative to the folder they lie in or came from, bytes (N,).
        places: Where each begins in the one file and how long it is, int64 (N, 2).
    """

    root: Path
    names: NDArray[np.bytes_]
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        places = None if self.places is None else self.places[rows]
        return replace(self, names=self.names[rows], places=places)

    def name(self, row: int) -> str:
        """Returns the name of a file."""
        return os.fsdecode(bytes(self.names[row]))

    def path(self, row: int) -> Path:
        """Returns the file of an image, or for messages the place in the one file."""
        return self.root / self.name(row)

    def read(self, row: int) -> bytes:
        """Returns the encoded image.

        Raises:
            RefusedDataError: When it cannot be read.
        """
        try:
            if self.places is None:
                return self.path(row).read_bytes()
            begin, length = self.places[row].tolist()
            with self.root.open("rb") as file:
                file.seek(begin)
                return file.read(length)
        except OSError as error:
            raise RefusedDataError(f"{self.path(row)} cannot be read ({error.strerror})") from error


_CPU = torch.device("cpu")


def is_stored(images: object) -> bool:
    """Returns whether images are not in memory."""
    return isinstance(images, StoredImages)


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images that are decoded when they are asked for, in place of a uint8 tensor (N, C, H, W).

    Annotations call them a tensor, as the code that takes them needs to know no difference: an
    index gives a tensor of the images at those places; ``shape``, ``dtype``, ``device`` and ``to``
    are those of a tensor.

    Args:
        encoded: The images on disk.
        checksums: CRC-32 of each encoded image as it was when all were looked at, (N,).
        image_shape: Of each image as it is given.
        size: Height and width to which they are brought; None where they have one size.
        workers: Processes that decode and augment them in training; none is this one.
        device: Where the tensors are given.
    """

    encoded: Encoded
    checksums: NDArray[np.uint32]
    image_shape: Shape
    size: int | None = None
    workers: int = 0
    device: torch.device = _CPU
    dtype: ClassVar[torch.dtype] = torch.uint8

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self), *self.image_shape))

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, rows: Any) -> Tensor:
        if isinstance(rows, int):
            return self[[rows]][0]
        chosen = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows].tolist()
        return self.decode(chosen, [None] * len(chosen)).to(self.device)

    def to(self, device: torch.device) -> StoredImages:
        """Returns the same images, given on another device."""
        return replace(self, device=device)

    def take(self, rows: Tensor) -> StoredImages:
        """Returns the images at these places, none of them decoded."""
        chosen = rows.cpu().numpy()
        return replace(self, encoded=self.encoded.take(chosen), checksums=self.checksums[chosen])

    def decode(self, rows: Sequence[int], crops: Sequence[Crop | None]) -> Tensor:
        """Returns images, or parts of them where a size is given, (N, C, H, W) on the CPU.

        Raises:
            RefusedDataError: When a file is not the one that was looked at, or damaged.
        """
        values = np.empty((len(rows), *self.image_shape), np.uint8)
        for value, row, crop in zip(values, rows, crops, strict=True):
            where, data = str(self.encoded.path(row)), self.encoded.read(row)
            if zlib.crc32(data) != self.checksums[row]:
                repair = (
                    "run the command again, and keep the files as they are meanwhile"
                    if self.encoded.places is None
                    else f"remove {self.encoded.root}, which is then made anew"
                )
                raise RefusedDataError(
                    f"{where} has changed since the data were first read; {repair}"
                )
            channels = self.image_shape.channels
            value[...] = decode(data, where, channels=channels, size=self.size, crop=crop)
        return torch.from_numpy(values)
