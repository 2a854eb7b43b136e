"""Images in folders, train/<class>/* and test/<class>/*, or in an archive of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from robustnorm.data.cache import identity
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import RefusedDataError
from robustnorm.data.layout import Found, arrange, walk
from robustnorm.data.listing import How, Part, read_listing
from robustnorm.data.packing import Pack
from robustnorm.data.stored import Encoded


def load_image_folder(path: Path, how: How) -> Dataset:
    """Returns the images of a folder or an archive, arranged by ``layout.arrange``.

    They are grey if all are, otherwise RGB, and of one size, or of any sizes with ``how.resize``.
    Training images are mirrored, and randomly cropped after padding by an eighth of their height.

    Args:
        path: The folder, or a tar or zip archive of it.
        how: How to read the images.

    Raises:
        DataError: With the file and what to do; a RefusedDataError when a file is at fault.
    """
    name = path.name.split(".")[0]
    if path.is_file():
        pack = Pack.of_archive(path, how.cache, check=partial(arrange, where=path))
        classes, found = arrange(pack.names, path)
        try:
            return read_listing(name, pack.identity, classes, _parts(pack.encoded, found), how)
        except RefusedDataError:
            pack.remove()
            raise
    names = list(walk(path))
    classes, found = arrange(names, path)
    listed = Encoded(path, np.array([os.fsencode(each) for each in names], np.bytes_))
    return read_listing(
        path.resolve().name, identity_of(path, names, found), classes, _parts(listed, found), how
    )


def identity_of(root: Path, names: Sequence[str], found: dict[str, Found]) -> str:
    """Returns the identity of the images found among the files of a folder, in their order."""
    chosen = [names[row] for part in found.values() for row in part.rows]
    return identity(root, chosen, [title for part in found.values() for title in part.titles])


def _parts(encoded: Encoded, found: dict[str, Found]) -> dict[str, Part]:
    return {
        part: Part(encoded.take(each.rows), each.labels, each.titles)
        for part, each in found.items()
    }
