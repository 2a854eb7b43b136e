"""Data sets listed in a CSV file of image paths and labels."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from robustnorm.data.cache import files_identity
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.listing import EncodedSplit, ReadOptions, read_listing
from robustnorm.data.stored import Encoded
from robustnorm.system.files import exists
from robustnorm.system.untrusted import is_inside

_PATHS = ("path", "file", "filename", "file_name", "image", "filepath")
_LABELS = ("label", "class", "target", "category")
_SPLITS = ("split", "part", "set", "subset")
# Of the words for test images, the first one found is used, as in folders.
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")


def load_csv(path: Path, how: ReadOptions) -> Dataset:
    """Returns the images that a CSV file lists.

    The first line names the columns: path, label and split ("train" or "test"). Without a split,
    all images are test images; those of "val" are if there is no "test", and else left out. Paths
    are relative to the file's folder and must stay in it. Labels are numbers from 0, also written
    as 3.0, or class names, which are sorted alphabetically.

    Args:
        path: The file.
        how: How to read the images.

    Raises:
        DataError: When columns, images or labels are missing; a RefusedDataError when a path leads
            outside or the file is not text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            columns = [_column(header, names) for names in (_PATHS, _LABELS, _SPLITS)]
            if columns[0] is None or columns[1] is None:
                raise DataError(
                    f"{path} must begin with a line that names the columns path, label and, for "
                    f"training, split; it has {', '.join(header)[:80] or 'nothing'}"
                )
            rows = [row for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise RefusedDataError(f"{path} is not a CSV text file ({error})") from error
    short = [row for row in rows if len(row) != len(header)]
    if short or not rows:
        shown = f"a line has {', '.join(short[0])[:80]}" if short else "there is none"
        raise DataError(f"{path} must have lines with {len(header)} values each, {shown}")
    if columns[2] is None:
        splits = ["test"] * len(rows)
    else:
        splits = _splits([row[columns[2]] for row in rows], path)
        rows = [row for row, split in zip(rows, splits, strict=True) if split]
        splits = [split for split in splits if split]
    paths, labels = ([row[c].strip() for row in rows] for c in columns[:2] if c is not None)
    outside = [each for each in paths if not is_inside(each)]
    if outside:
        raise RefusedDataError(f"{path} names {outside[0][:80]}, which is not in its folder")
    if len(set(paths)) < len(paths):
        twice = next(each for each, count in Counter(paths).items() if count > 1)
        raise DataError(f"{path} names {twice[:80]} more than once; list each image once")
    missing = [each for each in paths if not exists(path.parent / each)]
    if missing:
        raise DataError(f"{path} names {missing[0][:80]}, which is not in {path.parent}")
    classes, numbers = _classes(labels, path)
    encoded = Encoded(path.parent, np.array([os.fsencode(each) for each in paths], np.bytes_))
    found = dict[str, EncodedSplit]()
    for split in ("train", "test"):
        chosen = np.array([i for i in range(len(rows)) if splits[i] == split])
        if len(chosen):
            titles = [f"{split}/{classes[numbers[row]]}/{paths[row]}" for row in chosen]
            found[split] = EncodedSplit(encoded.take(chosen), numbers[chosen], titles)
    if "test" not in found:
        raise DataError(f"{path} has no test images; give some rows the split test")
    names = [classes[number] for number in numbers]
    titles = ["/".join(each) for each in zip(splits, names, paths, strict=True)]
    key = files_identity(path.parent, [path.name, *paths], [path.name, *titles])
    return read_listing(path.stem, key, classes, found, how)


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _splits(words: list[str], path: Path) -> list[str]:
    """Returns "train" or "test" for each word, and "" for validation images beside test images."""
    words = [word.strip().lower() for word in words]
    for word in words:
        if word not in _TRAIN + _TEST:
            raise DataError(f"{path} has the split '{word[:40]}'; train or test is required")
    test = next((word for word in _TEST if word in words), None)
    return ["train" if word in _TRAIN else "test" if word == test else "" for word in words]


def _classes(
    labels: list[str], path: Path
) -> tuple[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Returns the classes, and each image's label as a number."""
    if "" in labels:
        raise DataError(f"{path} has a line without a label; each image needs one")
    # Numbers of more digits are codes, that is, names.
    if all(re.fullmatch(r"-?[0-9]{1,5}(\.[0-9]*)?", label) for label in labels):
        wrong = [label for label in labels if float(label) < 0 or float(label) % 1]
        if wrong:
            raise DataError(
                f"{path} has the label {wrong[0]}; labels are whole numbers from 0, or names"
            )
        numbers = np.array([int(float(label)) for label in labels], np.int64)
        return tuple(map(str, range(int(numbers.max()) + 1))), numbers
    classes = sorted(set(labels))
    numbers_by_name = {name: number for number, name in enumerate(classes)}
    return tuple(classes), np.array([numbers_by_name[label] for label in labels], np.int64)
