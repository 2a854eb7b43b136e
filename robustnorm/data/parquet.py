"""Data sets in the Hugging Face hub's format: parquet files of encoded images and labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robustnorm.data.arrays import MOST_CLASSES
from robustnorm.data.cache import files_identity
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError, RefusedDataError, refusing
from robustnorm.data.listing import EncodedSplit, ReadOptions, read_listing
from robustnorm.data.packing import Pack
from robustnorm.system.untrusted import most_bytes

_IMAGES = ("image", "img", "pixel_values", "images")
_LABELS = ("label", "labels", "fine_label", "target", "class")
_SPELLINGS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
_ROWS = 4  # read at a time: dictionary encoding may repeat one image many times


def load_parquet(path: Path, how: ReadOptions) -> Dataset:
    """Returns the images in parquet files, ``train-*.parquet`` and ``test-*`` or ``validation-*``.

    Files may be in subfolders, or be called 0000.parquet in a folder named after the split.

    Args:
        path: The folder, or a single file, whose images are test images.
        how: How to read the images.

    Raises:
        DataError: When pyarrow is not installed, or columns or files are missing; a
            RefusedDataError when a file is damaged.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError(
            f'{path} needs pyarrow, which is not installed: pip install "robustnorm[parquet]"'
        ) from error
    splits = {"test": [path]} if path.is_file() else _files(path)
    files = [file for each in splits.values() for file in each]
    key = files_identity(path.parent, [str(file.relative_to(path.parent)) for file in files])
    name = path.resolve().name.split(".")[0]
    pack = Pack(name, key, how.cache, partial(_members, splits))
    # An image's name holds its split, label and number; the first file holds the class names.
    words = [each.split("/") for each in pack.names]
    labels = np.array([int(label) for _, label, _ in words], np.int64)
    classes = _classes(splits["test"][0], int(labels.max()))
    found = dict[str, EncodedSplit]()
    for split in splits:
        rows = np.array([row for row, each in enumerate(words) if each[0] == split])
        titles = [pack.names[row] for row in rows]
        found[split] = EncodedSplit(pack.encoded.take(rows), labels[rows], titles)
    try:
        return read_listing(name, key, classes, found, how)
    except RefusedDataError:
        pack.remove()
        raise


def _files(folder: Path) -> dict[str, list[Path]]:
    files = sorted(folder.rglob("*.parquet"))
    found = dict[str, list[Path]]()
    for split, spellings in _SPELLINGS.items():
        for spelling in spellings:
            of_split = [
                file
                for file in files
                if file.name.startswith(spelling)
                or spelling in file.relative_to(folder).parent.parts
            ]
            if of_split and split not in found:
                found[split] = of_split
    if "test" not in found:
        raise DataError(
            f"{folder} must hold parquet files called test-... or validation-..., and for training "
            "train-..."
        )
    return found


def _members(splits: dict[str, list[Path]]) -> Iterator[tuple[str, bytes]]:
    """Yields a name and the encoded image of each row."""
    for split, files in splits.items():
        count = 0
        for path in files:
            with refusing(path, "a valid parquet file of images", "download it again"):
                for label, image in _rows(path):
                    yield f"{split}/{label}/{count:08d}", image
                    count += 1


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    from pyarrow.parquet import ParquetFile

    left = most_bytes(path.stat().st_size)
    with ParquetFile(path) as file:
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > left:
            raise ValueError("it holds more than 16 MB and 100 times its size")
        names = file.schema_arrow.names
        images, labels = (_column(names, wanted) for wanted in (_IMAGES, _LABELS))
        if images is None or labels is None:
            raise DataError(
                f"{path} must have the columns image and label, it has {', '.join(names)[:80]}"
            )
        for batch in file.iter_batches(_ROWS, columns=[images, labels]):
            for row in batch.to_pylist():
                image, label = row[images], row[labels]
                data = image.get("bytes") if isinstance(image, dict) else image
                is_label = isinstance(label, int) and 0 <= label < MOST_CLASSES
                if not isinstance(data, bytes) or not is_label:
                    raise DataError(
                        f"{path} must hold encoded images and labels from 0 up, got "
                        f"{type(data).__name__} and {str(label)[:40]}"
                    )
                left -= len(data)
                if left < 0:
                    raise ValueError("it holds more than 16 MB and 100 times its size")
                yield label, data


def _column(names: list[str], wanted: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _classes(path: Path, most: int) -> tuple[str, ...]:
    """Returns the class names stored in a file, or else their numbers."""
    from pyarrow.parquet import read_schema

    try:
        schema = read_schema(path)
        info: Any = json.loads((schema.metadata or {})[b"huggingface"])
        label = _column(schema.names, _LABELS)
        names = tuple(map(str, info["info"]["features"][label]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        names = ()
    return names if len(names) > most else tuple(map(str, range(most + 1)))
