"""Images that stay encoded on disk and are decoded when they are needed."""

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
    """Encoded images, one per file or all concatenated in one file.

    Args:
        root: The folder of the files, or the single file.
        names: Names relative to the original folder, bytes (N,).
        places: Offset and length of each image in the single file, int64 (N, 2).
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
        """Returns the file of an image, or, for messages, a path in the single file."""
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
    """Returns whether images are on disk rather than in memory."""
    return isinstance(images, StoredImages)


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images decoded on demand, used like a uint8 tensor (N, C, H, W).

    Annotations call them a tensor, since code that uses them need not know the difference: indexing
    gives a tensor of the images; ``shape``, ``dtype``, ``device`` and ``to`` work as for a tensor.

    Args:
        encoded: The images on disk.
        checksums: CRC-32 of each encoded image when it was first checked, (N,).
        image_shape: Shape of each decoded image.
        size: Height and width to which images are scaled; None if they have the same size already.
        workers: Processes that decode and augment them in training; 0 for this process.
        device: Device of the tensors.
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
        """Returns the same images for another device."""
        return replace(self, device=device)

    def take(self, rows: Tensor) -> StoredImages:
        """Returns the images at these indices, without decoding them."""
        chosen = rows.cpu().numpy()
        return replace(self, encoded=self.encoded.take(chosen), checksums=self.checksums[chosen])

    def decode(self, rows: Sequence[int], crops: Sequence[Crop | None]) -> Tensor:
        """Decodes images, or crops of them if a size is given, (N, C, H, W) on the CPU.

        Raises:
            RefusedDataError: When a file has changed since it was checked, or is damaged.
        """
        values = np.empty((len(rows), *self.image_shape), np.uint8)
        for value, row, crop in zip(values, rows, crops, strict=True):
            where, data = str(self.encoded.path(row)), self.encoded.read(row)
            if zlib.crc32(data) != self.checksums[row]:
                remedy = (
                    "run the command again, and do not change the files while it runs"
                    if self.encoded.places is None
                    else f"remove {self.encoded.root}, and it will be made again"
                )
                raise RefusedDataError(
                    f"{where} has changed since the data were first read; {remedy}"
                )
            channels = self.image_shape.channels
            value[...] = decode(data, where, channels=channels, size=self.size, crop=crop)
        return torch.from_numpy(values)
