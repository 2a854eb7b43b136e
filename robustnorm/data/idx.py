"""Files of the MNIST family: arrays of bytes in the idx format, optionally compressed by gzip."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.arrays import dataset_of
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.system.untrusted import most_bytes

_PREFIXES = {"train": "train", "test": "t10k"}


def has_idx(folder: Path) -> bool:
    """Returns whether a folder holds test images of the MNIST family."""
    return _find(folder, "t10k", "images-idx3") is not None


def load_idx(
    path: Path, name: str | None = None, classes: tuple[str, ...] | None = None
) -> Dataset:
    """Returns the data in MNIST's four files, or in the two files of test images.

    Images are not mirrored: a mirrored 2 is not a 2.

    Args:
        path: The folder.
        name: Name in reports; the folder's by default.
        classes: Names of the classes.

    Raises:
        DataError: When a file is missing; a RefusedDataError when one is damaged.
    """
    arrays = dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]()
    for split, start in _PREFIXES.items():
        images, labels = (_find(path, start, kind) for kind in ("images-idx3", "labels-idx1"))
        if images is not None and labels is not None:
            arrays[split] = _read(images, 3), _read(labels, 1)
        elif split == "test" or images is not None:
            raise DataError(
                f"{path} must hold {start}-images-idx3-ubyte and {start}-labels-idx1-ubyte"
            )
    return dataset_of(
        name or path.resolve().name,
        arrays,
        str(path),
        classes=classes,
        augmentation=Augmentation(padding=2),
    )


def _find(folder: Path, start: str, kind: str) -> Path | None:
    names = (
        f"{start}-{kind}-ubyte",
        f"{start}-{kind}-ubyte.gz",
        f"{start}-{kind}-ubyte".replace("-idx", ".idx"),
    )
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads an array; its header begins with 0, 0, its type (8: bytes) and its dimensions."""
    try:
        most = most_bytes(path.stat().st_size)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(most + 1)
            if len(data) > most:
                raise ValueError(f"it holds more than {most / 1e6:.0f} MB")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RefusedDataError(f"{path} cannot be read ({error}); download it again") from error
    begin = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:begin], ">u4").tolist() if len(data) >= begin else []
    if data[:4] != bytes((0, 0, 8, dimensions)) or math.prod(shape) != len(data) - begin:
        raise RefusedDataError(
            f"{path} is not a valid idx file of {dimensions}-dimensional bytes; download it again"
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape).copy()
