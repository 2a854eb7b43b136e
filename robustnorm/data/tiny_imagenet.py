from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.image_folder import encoded_splits, identity_of
from robustnorm.data.layout import arrange, walk
from robustnorm.data.listing import ReadOptions, read_listing
from robustnorm.data.packing import Pack
from robustnorm.data.stored import Encoded
from robustnorm.data.unpacking import download as fetch

_FOLDER, _ARCHIVE = "tiny-imagenet-200", "tiny-imagenet-200.zip"
_URL = f"http://cs231n.stanford.edu/{_ARCHIVE}"
_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_ANNOTATIONS = "val_annotations.txt"


def load_tiny_imagenet(root: Path, how: ReadOptions, *, download: bool = False) -> Dataset:
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
    classes, found = arrange(_standard_names(names, encoded.read), folder)
    key = identity_of(folder, names, found) if pack is None else pack.identity
    return read_listing("Tiny ImageNet", key, classes, encoded_splits(encoded, found), how)


def _standard_names(names: list[str], read: Callable[[int], bytes]) -> list[str]:
    """Returns names as <split>/<class>/<image>; other files get names that ``arrange`` skips."""
    annotations = next((i for i, name in enumerate(names) if name.endswith(_ANNOTATIONS)), None)
    if annotations is None:
        raise DataError(f"Tiny ImageNet lacks val/{_ANNOTATIONS}; download {_ARCHIVE} again")
    lines = [line.split("\t") for line in read(annotations).decode("ascii", "replace").splitlines()]
    label = {line[0]: line[1] for line in lines if len(line) > 1}
    standard = []
    for name in names:
        *folders, file = name.removeprefix(f"{_FOLDER}/").split("/")
        if folders[:1] == ["val"] and file != _ANNOTATIONS:
            if file not in label:
                raise RefusedDataError(f"val/{_ANNOTATIONS} has no class for {file[:80]}")
            standard.append(f"val/{label[file]}/{file}")
        elif folders[:1] == ["train"] and folders[-1:] == ["images"]:
            standard.append("/".join((*folders, file)))
        else:
            standard.append(file)  # in no split's folder
    return standard
