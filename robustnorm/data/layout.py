"""Finds training and test images and their classes by the names of files."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.errors import DataError
from robustnorm.system.untrusted import MOST_DEPTH

# Accepted names of a split's folder, in lower case; the first one found is used.
_SPELLINGS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split's images, in the order of the images' ids.

    Args:
        rows: Indices among the names of all files, (N,).
        labels: int64 (N,).
        titles: Names below the split's standard name, such as "train/cat/1.png".
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    titles: list[str]


def is_visible(name: str) -> bool:
    """Returns whether a file is not hidden and not one that operating systems put in every folder.

    Examples:
        >>> [is_visible(name) for name in ("a/1.png", "a/.DS_Store", "a/Thumbs.db", ".b/1.png")]
        [True, False, False, False]
    """
    return not any(
        part.startswith(".") or part.lower() in _SYSTEM_FILES for part in name.split("/")
    )


def walk(folder: Path) -> Iterator[str]:
    """Yields the visible files below a folder, as relative names in no particular order.

    Raises:
        DataError: When folders are nested too deeply, for example by a link to a parent.
    """
    below = [""]
    while below:
        name = below.pop()
        if name.count("/") > MOST_DEPTH:
            raise DataError(f"{folder / name} is nested deeper than {MOST_DEPTH} folders")
        for entry in (folder / name).iterdir():
            path = f"{name}{entry.name}"
            if is_visible(entry.name):
                if entry.is_dir():
                    below.append(f"{path}/")
                elif entry.is_file():
                    yield path


def arrange(names: Sequence[str], where: Path) -> tuple[tuple[str, ...], dict[str, SplitFiles]]:
    """Returns the classes, and the splits "train" and "test" or only "test".

    Files are named <split>/<class>/<image>. Classes are the folders' names in alphabetical order;
    an image's id is its index in the order of (class, name). An image may be nested deeper: its
    class is the folder directly below the split's.

    Args:
        names: Names of all files; a single folder that contains all of them is ignored.
        where: The folder or archive, for errors.

    Raises:
        DataError: When the names do not have this layout.
    """
    prefix = ""
    while len(tops := _tops(names, prefix)) == 1 and not _names_a_split(next(iter(tops))):
        prefix += f"{tops.pop()}/"
    chosen = {split: _find_folder(spellings, tops) for split, spellings in _SPELLINGS.items()}
    if chosen["test"] is None:
        raise DataError(
            f"{where} has no folder test/ or val/ with class folders: images are read from "
            "train/<class>/ and test/<class>/"
        )
    folders = {split: top for split, top in chosen.items() if top is not None}
    # Few objects per image, since there may be millions. "\0" sorts by class first.
    keys = {split: list[str]() for split in folders}
    rows = {split: array("q") for split in folders}
    for split, top in folders.items():
        start = f"{prefix}{top}/"
        for row, name in enumerate(names):
            if name.startswith(start) and "/" in name[len(start) :]:
                keys[split].append(name[len(start) :].replace("/", "\0", 1))
                rows[split].append(row)
    classes = {split: {key.partition("\0")[0] for key in keys[split]} for split in folders}
    for split, top in folders.items():
        if not classes[split]:
            raise DataError(
                f"{where / top} has no class folders with images; put images in {top}/<class>/"
            )
        if missing := sorted(set().union(*classes.values()) - classes[split]):
            others = " and ".join(f"{other}/" for name, other in folders.items() if name != split)
            raise DataError(
                f"{where / top} lacks images of classes that {others} has: {', '.join(missing)}; "
                "both need the same class folders"
            )
    labels = {name: label for label, name in enumerate(sorted(classes["test"]))}
    return tuple(labels), {
        split: _sorted_files(split, keys[split], rows[split], labels) for split in folders
    }


def _sorted_files(
    split: str, keys: list[str], rows: array[int], labels: dict[str, int]
) -> SplitFiles:
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return SplitFiles(
        np.array(rows, np.int64)[order],
        np.array([labels[keys[i].partition("\0")[0]] for i in order], np.int64),
        [f"{split}/{keys[i].replace(chr(0), '/')}" for i in order],
    )


def _tops(names: Sequence[str], prefix: str) -> set[str]:
    """Returns the folders directly below a prefix."""
    rests = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return {rest.partition("/")[0] for rest in rests if "/" in rest}


def _names_a_split(top: str) -> bool:
    return any(top.lower() in spellings for spellings in _SPELLINGS.values())


def _find_folder(spellings: tuple[str, ...], tops: set[str]) -> str | None:
    by_spelling = {top.lower(): top for top in sorted(tops, reverse=True)}
    return next((by_spelling[each] for each in spellings if each in by_spelling), None)
