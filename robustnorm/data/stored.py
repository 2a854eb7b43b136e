"""Images that stay encoded on disk: of as many as there are, only those asked for are in memory."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustnorm.data.decoding import Shape, decode
from robustnorm.data.errors import RefusedDataError

# Left, top, right and bottom of a part of an image, as fractions of width and height.
Box = tuple[float, float, float, float]


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


def is_stored(images: object) -> bool:
    """Returns whether images are not in memory."""
    return isinstance(images, StoredImages)


class StoredImages:
    """Images that are decoded when they are asked for, in place of a uint8 tensor (N, C, H, W).

    Annotations call them a tensor, as the code that takes them needs to know no difference.

    An index gives a tensor of the images at those places. All else is as of a tensor: ``shape``,
    ``dtype``, ``device``, ``to``, the number of images.

    Args:
        encoded: The images on disk.
        checksums: CRC-32 of each encoded image as it was when all were looked at, (N,).
        shape: Of each image as it is given.
        size: Height and width to which they are brought; None where they have one size.
        device: Where the tensors are given.
    """

    dtype = torch.uint8

    def __init__(
        self,
        encoded: Encoded,
        checksums: NDArray[np.uint32],
        shape: Shape,
        size: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self._encoded, self._checksums, self._shape, self._size = encoded, checksums, shape, size

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self), *self._shape))

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, rows: Any) -> Tensor:
        if isinstance(rows, int):
            return self[[rows]][0]
        chosen = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows].tolist()
        values = np.empty((len(chosen), *self._shape), np.uint8)
        for value, row in zip(values, chosen, strict=True):
            value[...] = self.decode(row)
        return torch.from_numpy(values).to(self.device)

    def to(self, device: torch.device) -> StoredImages:
        """Returns the same images, given on another device."""
        return StoredImages(self._encoded, self._checksums, self._shape, self._size, device)

    def take(self, rows: Tensor) -> StoredImages:
        """Returns the images at these places, none of them decoded."""
        chosen = rows.cpu().numpy()
        return StoredImages(
            self._encoded.take(chosen),
            self._checksums[chosen],
            self._shape,
            self._size,
            self.device,
        )

    def decode(self, row: int, box: Box | None = None) -> NDArray[np.uint8]:
        """Returns the pixels (C, H, W) of one image, or of a part of it where a size is given.

        Raises:
            RefusedDataError: When the file is not the one that was looked at, or damaged.
        """
        data = self._encoded.read(row)
        if zlib.crc32(data) != self._checksums[row]:
            repair = (
                "run the command again, and keep the files as they are meanwhile"
                if self._encoded.places is None
                else f"remove {self._encoded.root}, which is then made anew"
            )
            raise RefusedDataError(
                f"{self._encoded.path(row)} has changed since the data were first read; {repair}"
            )
        where = str(self._encoded.path(row))
        return decode(data, where, channels=self._shape.channels, size=self._size, box=box)
