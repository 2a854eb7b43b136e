from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from robustnorm.data.arrays import dataset_of
from robustnorm.data.cifar100 import read_values
from robustnorm.data.dataset import Augmentation, Dataset
from robustnorm.data.errors import DataError
from robustnorm.data.unpacking import is_published

_FOLDER = "ImageNet16"
_CLASSES = 120
# The published files, by md5.
_TRAIN = {
    "train_data_batch_1": "27846dcaa50de8e21a7d1a35f30f0e91",
    "train_data_batch_2": "c7254a054e0e795c69120a5727050e3f",
    "train_data_batch_3": "4333d3df2e5ffb114b05d2ffc19b1e87",
    "train_data_batch_4": "1620cdf193304f4a92677b695d70d10f",
    "train_data_batch_5": "348b3c2fdbb3940c4e9e834affd3b18d",
    "train_data_batch_6": "6e765307c242a1b3d7d5ef9139b48945",
    "train_data_batch_7": "564926d8cbf8fc4818ba23d2faac7564",
    "train_data_batch_8": "f4755871f718ccb653440b9dd0ebac66",
    "train_data_batch_9": "bb6dd660c38c58552125b1a92f86b5d4",
    "train_data_batch_10": "8f03f34ac4b42271a294f91bf480f29b",
}
_TEST = {"val_data": "3410e3017fdaefba8d5073aaa65e4bd6"}


def load_imagenet16_120(root: Path) -> Dataset:
    """Returns ImageNet16-120: the first 120 classes of ImageNet at 16x16, 151,700 and 6,000 images.

    Reads the pickles without executing them. Reports mark files other than the published ones.

    Args:
        root: Folder that contains ``ImageNet16``, the eleven files of NAS-Bench-201.

    Raises:
        DataError: When files are missing; a RefusedDataError when one is damaged.

    References:
        Chrabaszcz et al., A Downsampled Variant of ImageNet, arXiv:1707.08819; Dong & Yang,
        NAS-Bench-201, ICLR 2020, arXiv:2001.00326.
    """
    folder = root / _FOLDER
    missing = [name for name in (*_TRAIN, *_TEST) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"ImageNet16-120 needs {', '.join(missing)} in {folder}: put the files of "
            "NAS-Bench-201's ImageNet16 there, or give another --data_root"
        )
    splits, published = {}, True
    for split, files in {"train": _TRAIN, "test": _TEST}.items():
        found = []
        for name, md5 in tqdm(files.items(), "reading ImageNet16", unit="file", disable=None):
            images, labels = read_values(folder / name, "labels", 16)
            # Labels start at 1; the files also contain classes above 120.
            kept = ((labels >= 1) & (labels <= _CLASSES)).nonzero().flatten()
            found.append((images[kept], labels[kept] - 1))
            published &= is_published(folder / name, md5)
        all_images, all_labels = zip(*found, strict=True)
        splits[split] = torch.cat(all_images), torch.cat(all_labels)
    return dataset_of(
        "ImageNet16-120" if published else "ImageNet16-120 (not the published files)",
        splits,
        str(folder),
        classes=tuple(map(str, range(_CLASSES))),
        augmentation=Augmentation(padding=2, flip=True),
    )
