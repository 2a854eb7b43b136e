from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.image_folder import identity_of
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
    """Returns Tiny ImageNet: 200 classes at 64 x 64, 100,000 training and 10,000 test images.

    The test images are those of ``val``: those of ``test`` have no published labels.

    Args:
        root: Folder of ``tiny-imagenet-200`` or its zip archive.
        how: How to read the images.
        download: Download the archive if neither exists.

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
                f"Tiny ImageNet is not in {root}. Download it with --download true, or put "
                f"{_ARCHIVE} there"
            )
        pack = Pack.of_archive(archive, how.cache)
        names, encoded = pack.names, pack.encoded
    classes, found = arrange(_usual(names, encoded.read), folder)
    key = identity_of(folder, names, found) if pack is None else pack.identity
    parts = {
        part: Part(encoded.take(each.rows), each.labels, each.titles)
        for part, each in found.items()
    }
    return read_listing("Tiny ImageNet", key, classes, parts, how)


def _usual(names: list[str], read: Callable[[int], bytes]) -> list[str]:
    """Returns names as train/<class>/<image> and val/<class>/<image>; others become hidden ones."""
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
            usual.append(file)  # not in the folder of a part
    return usual
