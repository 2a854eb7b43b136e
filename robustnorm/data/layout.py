"""Finds training and test images and their classes among files, by name."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustnorm.data.errors import DataError
from robustnorm.system.untrusted import MOST_DEPTH

# Accepted names of a part's folder, in lower case; the first one found is used.
_SPELLINGS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
_NO_IMAGES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True)
class Found:
    """The images of a part, in the order of their ids.

    Args:
        rows: Their indices among the names, (N,).
        labels: int64 (N,).
        titles: Their names under the part's standard name, "train/cat/1.png".
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    titles: list[str]


def is_visible(name: str) -> bool:
    """Returns whether a file is not one of those that systems leave in every folder.

    Examples:
        >>> [is_visible(name) for name in ("a/1.png", "a/.DS_Store", "a/Thumbs.db", ".b/1.png")]
        [True, False, False, False]
    """
    return not any(part.startswith(".") or part.lower() in _NO_IMAGES for part in name.split("/"))


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


def arrange(names: Sequence[str], where: Path) -> tuple[tuple[str, ...], dict[str, Found]]:
    """Returns the classes, and "train" and "test" or only "test", from <part>/<class>/<image>.

    Classes are the folders' names in alphabetical order; an image's id is its index in the order of
    (class, name). An image may be nested deeper: its class is the folder below the part's.

    Args:
        names: Names of all files; a single folder that contains all of them is ignored.
        where: The folder or archive, for errors.

    Raises:
        DataError: When the names do not have this layout, with what to do.
    """
    prefix = ""
    while len(tops := _tops(names, prefix)) == 1 and not _part_of(next(iter(tops))):
        prefix += f"{tops.pop()}/"
    tops_by_part = {part: _chosen(spellings, tops) for part, spellings in _SPELLINGS.items()}
    if tops_by_part["test"] is None:
        raise DataError(
            f"{where} has no folder test/ or val/ of class folders: images are read from "
            "train/<class>/ and test/<class>/"
        )
    parts = {part: top for part, top in tops_by_part.items() if top is not None}
    # Few objects an image: there may be millions. Names of classes sort before those of files.
    keys = {part: list[str]() for part in parts}
    rows = {part: array("q") for part in parts}
    for part, top in parts.items():
        start = f"{prefix}{top}/"
        for row, name in enumerate(names):
            if name.startswith(start) and "/" in name[len(start) :]:
                keys[part].append(name[len(start) :].replace("/", "\0", 1))
                rows[part].append(row)
    classes = {part: {key.partition("\0")[0] for key in keys[part]} for part in parts}
    for part, top in parts.items():
        if not classes[part]:
            raise DataError(
                f"{where / top} has no class folders with images; put images in {top}/<class>/"
            )
        if missing := sorted(set().union(*classes.values()) - classes[part]):
            others = " and ".join(f"{other}/" for name, other in parts.items() if name != part)
            raise DataError(
                f"{where / top} lacks images of classes that {others} has: {', '.join(missing)}; "
                "both need the same class folders"
            )
    labels = {name: label for label, name in enumerate(sorted(classes["test"]))}
    return tuple(labels), {part: _found(part, keys[part], rows[part], labels) for part in parts}


def _found(part: str, keys: list[str], rows: array[int], labels: dict[str, int]) -> Found:
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Found(
        np.array(rows, np.int64)[order],
        np.array([labels[keys[place].partition("\0")[0]] for place in order], np.int64),
        [f"{part}/{keys[place].replace(chr(0), '/')}" for place in order],
    )


def _tops(names: Sequence[str], prefix: str) -> set[str]:
    """Returns the folders directly below a prefix."""
    rests = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return {rest.partition("/")[0] for rest in rests if "/" in rest}


def _part_of(top: str) -> bool:
    return any(top.lower() in spellings for spellings in _SPELLINGS.values())


def _chosen(spellings: tuple[str, ...], tops: set[str]) -> str | None:
    by_spelling = {top.lower(): top for top in sorted(tops, reverse=True)}
    return next((by_spelling[each] for each in spellings if each in by_spelling), None)
