from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustnorm.data.cache import identity
from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.layout import arrange, walk
from robustnorm.data.listing import How, Part, read_listing
from robustnorm.data.packing import Pack
from robustnorm.data.stored import Encoded
from robustnorm.data.unpacking import download as fetch

_FOLDER, _ARCHIVE = "tiny-imagenet-200", "tiny-imagenet-200.zip"
_URL = f"http://cs231n.stanford.edu/{_ARCHIVE}"
_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_ANNOTATIONS = "val_annotations.txt"


def load_tiny_imagenet(root: Path, how: How, *, download: bool = False) -> Dataset:
    """Returns Tiny ImageNet: 200 classes at 64 x 64, 100,000 images to train, 10,000 to test.

    The test images are those of ``val``: no label is published for those of ``test``.

    Args:
        root: Folder that holds, or is to hold, ``tiny-imagenet-200`` or its zip archive.
        how: How images are read.
        download: Fetch the archive when neither is there.

    Raises:
        DataError: When it is missing or the download fails; a RefusedDataError when it is damaged.

    References:
        Le & Yang, Tiny ImageNet Visual Recognition Challenge, 2015.
    """
    folder, archive = root / _FOLDER, root / _ARCHIVE
    pack: Pack | None = None
    if folder.is_dir():
        names = list(walk(folder))
        encoded = Encoded(folder, np.array([os.fsencode(name) for name in names], np.bytes_))
    else:
        if download:
            fetch(_URL, archive, _MD5)
        if not archive.is_file():
            raise DataError(
                f"Tiny ImageNet is not in {root}. Let it be fetched with --download true, or put "
                f"{_ARCHIVE} there"
            )
        pack = Pack.of_archive(archive, how.cache)
        names, encoded = pack.names, pack.encoded
    classes, found = arrange(_usual(names, encoded.read), folder)
    if pack is None:
        rows = [row for part in found.values() for row in part.rows]
        titles = [title for part in found.values() for title in part.titles]
        key = identity([folder / names[row] for row in rows], titles)
    else:
        key = pack.identity
    parts = {
        part: Part(encoded.take(each.rows), each.labels, each.titles)
        for part, each in found.items()
    }
    return read_listing("Tiny ImageNet", key, classes, parts, how)


def _usual(names: list[str], read: Callable[[int], bytes]) -> list[str]:
    """Returns the names as train/<class>/<image> and val/<class>/<image>; others as hidden ones."""
    told = next((row for row, name in enumerate(names) if name.endswith(_ANNOTATIONS)), None)
    if told is None:
        raise DataError(f"Tiny ImageNet lacks val/{_ANNOTATIONS}; fetch {_ARCHIVE} again")
    lines = [line.split("\t") for line in read(told).decode("ascii", "replace").splitlines()]
    label = {line[0]: line[1] for line in lines if len(line) > 1}
    usual = []
    for name in names:
        *folders, file = name.removeprefix(f"{_FOLDER}/").split("/")
        if folders[:1] == ["val"] and file != _ANNOTATIONS:
            if file not in label:
                raise RefusedDataError(f"val/{_ANNOTATIONS} does not tell the class of {file[:80]}")
            usual.append(f"val/{label[file]}/{file}")
        elif folders[:1] == ["train"] and folders[-1:] == ["images"]:
            usual.append("/".join((*folders, file)))
        else:
            usual.append(file)  # in no folder of a part
    return usual
