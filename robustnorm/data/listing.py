"""Data sets of encoded images, defined by their files, classes and order."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from robustnorm.data.cache import cached_tensors, shorten
from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.data.decoding import Shape, shape_of
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.stored import Encoded, StoredImages
from robustnorm.system.untrusted import most_decoded

# Images that would take more bytes than this stay encoded on disk.
MOST_IN_MEMORY = 2 * 2**30

# Known copies by content, so that reports name them correctly.
_KNOWN_NAMES = {
    "9331aba37042b53ef175ea92210135363b064914b4bd4729651584a1b708a676": "CIFAR-10 (JPEG q75)",
}


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Encoded training or test images, in the order of their ids.

    Args:
        encoded: The images.
        labels: int64 (N,).
        titles: Names that enter the hash of the content, such as "train/cat/1.png"; by default
            the file names.
    """

    encoded: Encoded
    labels: NDArray[np.int64]
    titles: Sequence[str] | None = None

    def title(self, row: int) -> str:
        return self.encoded.name(row) if self.titles is None else self.titles[row]


@dataclass(frozen=True)
class ReadOptions:
    """How to read encoded images.

    Args:
        cache: Folder for cached results.
        resize: Height and width to which images are scaled and cropped; None leaves their size.
        stream: Leave images encoded on disk; by default if they would take more than 2 GiB.
        workers: Processes that decode and augment streamed images in training; 0 for this process.
    """

    cache: Path
    resize: int | None = None
    stream: bool | None = None
    workers: int = 0


def read_listing(
    name: str,
    identity: str,
    classes: tuple[str, ...],
    splits: dict[str, EncodedSplit],
    how: ReadOptions,
) -> Dataset:
    """Returns a data set of encoded images, decoded into memory or left on disk.

    Args:
        name: Name in reports, unless the content is a known copy.
        identity: Identity of the files, from ``cache.files_identity``.
        classes: Names of the classes, by label.
        splits: "train" and "test", or only "test".
        how: How to read them.

    Raises:
        DataError: When images cannot be used; a RefusedDataError when a file is damaged.
    """
    stem = f"{shorten(name)}-{identity}"
    facts = cached_tensors(how.cache / f"looked-{stem}.safetensors", lambda: _inspect(name, splits))
    try:
        return _read_inspected(name, stem, facts, classes, splits, how)
    except RefusedDataError:
        (how.cache / f"looked-{stem}.safetensors").unlink(missing_ok=True)
        raise


def _read_inspected(
    name: str,
    stem: str,
    facts: dict[str, Tensor],
    classes: tuple[str, ...],
    splits: dict[str, EncodedSplit],
    how: ReadOptions,
) -> Dataset:
    """Returns the data set from files that ``_inspect`` found ``facts`` about."""
    checksums = {split: facts[f"{split}.checksums"].numpy().view(np.uint32) for split in splits}
    shape = Shape(*facts["shape"].tolist())
    if how.resize is not None:
        shape = Shape(shape.channels, how.resize, how.resize)
    elif len(facts["odd"]):
        _refuse_sizes(splits, facts)
    count = sum(len(each.encoded) for each in splits.values())
    needed = count * shape.channels * shape.height * shape.width
    most = most_decoded(int(facts["bytes"]))
    if needed > most:
        raise RefusedDataError(
            f"the images of {name} decode to {needed:,} bytes, more than the {most:,} allowed for "
            "files of that size; choose a smaller --resize, or remove those images"
        )
    stored = {
        split: StoredImages(each.encoded, checksums[split], shape, how.resize, how.workers)
        for split, each in splits.items()
    }
    images = cast(dict[str, Tensor], stored)
    if not (needed > MOST_IN_MEMORY if how.stream is None else how.stream):
        size = "" if how.resize is None else f"-{how.resize}"
        images = cached_tensors(
            how.cache / f"decoded-{stem}{size}.safetensors", lambda: _decode(name, stored)
        )
    loaded = {
        split: Split(images[split], torch.from_numpy(each.labels)) for split, each in splits.items()
    }
    content = bytes(facts["sha256"].tolist())
    if how.resize is not None:
        content = hashlib.sha256(content + f"resized to {how.resize}".encode()).digest()
    nothing = Split(torch.empty((0, *shape), dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    return Dataset(
        name=_KNOWN_NAMES.get(content.hex(), name)
        + ("" if how.resize is None else f" at {how.resize}x{how.resize}"),
        classes=classes,
        train=loaded.get("train", nothing),
        test=loaded["test"],
        augmentation=Augmentation(padding=shape.height // 8, flip=True),
        sha256=content.hex(),
    )


def _inspect(name: str, splits: dict[str, EncodedSplit]) -> dict[str, Tensor]:
    """Reads every file once; returns their checksums, shape, total size and hash."""
    content, size, grey = hashlib.sha256(), 0, True
    first: tuple[int, int] | None = None
    found = dict[str, Tensor]()
    odd = list[
        int
    ]()  # the first image of another size: its index over all splits, height and width
    before = 0
    total = sum(len(each.encoded) for each in splits.values())
    with tqdm(total=total, desc=f"inspecting {name}", unit="img", disable=None) as bar:
        for split, files in splits.items():
            checksums = np.empty(len(files.encoded), np.uint32)
            for row in range(len(files.encoded)):
                data = files.encoded.read(row)
                content.update(os.fsencode(f"{files.title(row)}\0{len(data)}\0") + data)
                checksums[row] = zlib.crc32(data)
                channels, *shape = shape_of(data, str(files.encoded.path(row)))
                first = first or (shape[0], shape[1])
                if tuple(shape) != first and not odd:
                    odd = [before + row, *shape]
                grey = grey and channels == 1
                size += len(data)
                bar.update()
            before += len(files.encoded)
            found[f"{split}.checksums"] = torch.from_numpy(checksums.view(np.int32))
    assert first is not None
    return found | {
        "shape": torch.tensor([1 if grey else 3, *first]),
        "odd": torch.tensor(odd, dtype=torch.int64),
        "bytes": torch.tensor(size),
        "sha256": torch.tensor(list(content.digest()), dtype=torch.uint8),
    }


def _refuse_sizes(splits: dict[str, EncodedSplit], facts: dict[str, Tensor]) -> None:
    index, height, width = facts["odd"].tolist()
    rows = [(each, row) for each in splits.values() for row in range(len(each.encoded))]
    split, row = rows[index]
    first = Shape(*facts["shape"].tolist())
    raise DataError(
        f"{split.encoded.path(row)} is {width}x{height}, but the images before it are "
        f"{first.width}x{first.height}; scale all to one size with --resize {first.height}"
    )


def _decode(name: str, stored: dict[str, StoredImages]) -> dict[str, Tensor]:
    """Returns the images (N, C, H, W) of each split."""
    decoded = {split: np.empty(images.shape, np.uint8) for split, images in stored.items()}
    total = sum(map(len, stored.values()))
    with tqdm(total=total, desc=f"decoding {name}", unit="img", disable=None) as bar:
        for split, images in stored.items():
            for row in range(len(images)):
                decoded[split][row] = images.decode([row], [None])[0]
                bar.update()
    return {split: torch.from_numpy(images) for split, images in decoded.items()}
