"""Images in folders, train/<class>/* and test/<class>/*, or in an archive of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from robustnorm.data.cache import files_identity
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import RefusedDataError
from robustnorm.data.layout import SplitFiles, arrange, walk
from robustnorm.data.listing import EncodedSplit, ReadOptions, read_listing
from robustnorm.data.packing import Pack
from robustnorm.data.stored import Encoded


def load_image_folder(path: Path, how: ReadOptions) -> Dataset:
    """Returns the images of a folder or an archive, arranged by ``layout.arrange``.

    Images become grey if all of them are, otherwise RGB. Sizes may differ only with
    ``how.resize``. Training images are mirrored, and randomly cropped after padding by an
    eighth of their height.

    Args:
        path: The folder, or a tar or zip archive of it.
        how: How to read the images.

    Raises:
        DataError: When images are missing or cannot be used; a RefusedDataError when a file is
            damaged.
    """
    name = path.name.split(".")[0]
    if path.is_file():
        pack = Pack.of_archive(path, how.cache, check=partial(arrange, where=path))
        classes, found = arrange(pack.names, path)
        try:
            return read_listing(
                name, pack.identity, classes, encoded_splits(pack.encoded, found), how
            )
        except RefusedDataError:
            pack.remove()
            raise
    names = list(walk(path))
    classes, found = arrange(names, path)
    listed = Encoded(path, np.array([os.fsencode(each) for each in names], np.bytes_))
    return read_listing(
        path.resolve().name,
        identity_of(path, names, found),
        classes,
        encoded_splits(listed, found),
        how,
    )


def identity_of(root: Path, names: Sequence[str], found: dict[str, SplitFiles]) -> str:
    """Returns the identity of the images found in a folder, in their order."""
    chosen = [names[row] for split in found.values() for row in split.rows]
    return files_identity(
        root, chosen, [title for split in found.values() for title in split.titles]
    )


def encoded_splits(encoded: Encoded, found: dict[str, SplitFiles]) -> dict[str, EncodedSplit]:
    """Returns the images found among encoded ones, by split."""
    return {
        split: EncodedSplit(encoded.take(each.rows), each.labels, each.titles)
        for split, each in found.items()
    }
