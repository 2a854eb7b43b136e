"""Data sets by name or path; loads torch only when a data set is loaded."""

from __future__ import annotations

import os
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from robustnorm.data.errors import DataError
from robustnorm.system.files import exists
from robustnorm.system.registry import Registry, unknown

if TYPE_CHECKING:
    from robustnorm.data.dataset import Dataset

# An entry may take root (the folder of downloads), download, and how (to read encoded images).
# Adding one takes one file, one line here and one test.
DATASETS = Registry(
    "dataset",
    {
        "digits": "robustnorm.data.digits:load_digits",
        "cifar10": "robustnorm.data.cifar10:load_cifar10",
        "cifar100": "robustnorm.data.cifar100:load_cifar100",
        "imagenet16-120": "robustnorm.data.imagenet16:load_imagenet16_120",
        "svhn": "robustnorm.data.svhn:load_svhn",
        "mnist": "robustnorm.data.mnist:load_mnist",
        "fashion-mnist": "robustnorm.data.mnist:load_fashion_mnist",
        "tiny-imagenet": "robustnorm.data.tiny_imagenet:load_tiny_imagenet",
        "imagenette": "robustnorm.data.imagenette:load_imagenette",
        "stl10": "robustnorm.data.stl10:load_stl10",
    },
)

# Data sets chosen by their path. An entry takes path, and how if its images are encoded;
# ``format_of`` chooses the entry for a path.
FORMATS = Registry(
    "format",
    {
        "images": "robustnorm.data.image_folder:load_image_folder",
        "npz": "robustnorm.data.numpy_files:load_npz",
        "npy": "robustnorm.data.numpy_files:load_npy",
        "tensors": "robustnorm.data.tensor_files:load_tensors",
        "csv": "robustnorm.data.csv_list:load_csv",
        "parquet": "robustnorm.data.parquet:load_parquet",
        "idx": "robustnorm.data.idx:load_idx",
        "cifar10": "robustnorm.data.cifar10:read_cifar10",
        "cifar100": "robustnorm.data.cifar100:read_cifar100",
    },
)
_SUFFIXES = {
    ".npz": "npz",
    ".npy": "npy",
    ".pt": "tensors",
    ".pth": "tensors",
    ".csv": "csv",
    ".parquet": "parquet",
}
# Folders and archives of named data sets; the folder that holds them is their root.
_NAMED = {
    "cifar-10-batches-py": "cifar10",
    "cifar-10-batches-bin": "cifar10",
    "cifar-10-python.tar.gz": "cifar10",
    "cifar-10-binary.tar.gz": "cifar10",
    "cifar-100-python": "cifar100",
    "cifar-100-binary": "cifar100",
    "cifar-100-python.tar.gz": "cifar100",
    "cifar-100-binary.tar.gz": "cifar100",
    "tiny-imagenet-200": "tiny-imagenet",
    "tiny-imagenet-200.zip": "tiny-imagenet",
    "stl10_binary": "stl10",
    "stl10_binary.tar.gz": "stl10",
}
# Files that identify the format of a folder.
_TELLTALE_FILES = {
    "data_batch_1": "cifar10",
    "data_batch_1.bin": "cifar10",
    "fine_label_names.txt": "cifar100",
    "meta": "cifar100",
    "t10k-images-idx3-ubyte": "idx",
    "t10k-images-idx3-ubyte.gz": "idx",
    "t10k-images.idx3-ubyte": "idx",
    "x_test.npy": "npy",
    "test_images.npy": "npy",
    "labels.npy": "npy",
}


def check_data(data: str) -> None:
    """Raises a DataError unless ``data`` names a data set or an existing path.

    Args:
        data: A name in ``DATASETS``, or the path of a folder, a file or an archive of images.
    """
    if data in DATASETS or exists(Path(data)):
        return
    raise DataError(
        f"{unknown('dataset', data, list(DATASETS))} A path must lead to a folder with "
        "train/<class>/ and test/<class>/, an archive of one, or data in another format of "
        f"docs/data.md; '{data}' does not exist."
    )


def format_of(path: Path) -> str:
    """Returns the entry of ``FORMATS`` for a path."""
    if path.is_file():
        return _SUFFIXES.get(path.suffix.lower(), "images")
    for file, kind in _TELLTALE_FILES.items():
        if (path / file).is_file():
            return kind
    parquet = any(any(path.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet"))
    return "parquet" if parquet else "images"


def load_dataset(
    data: str,
    *,
    root: Path = Path("data"),
    download: bool = False,
    resize: int | None = None,
    stream: bool | None = None,
    workers: int | None = None,
) -> Dataset:
    """Loads a data set as uint8 images.

    Args:
        data: A name in ``DATASETS``, or the path of data in one of ``FORMATS``.
        root: Folder for downloads and cached results.
        download: Download a named data set that is not in ``root``.
        resize: Scale the shorter side of encoded images to this and crop the center.
        stream: Leave encoded images on disk; by default if they would take more than 2 GiB.
        workers: Processes that decode and augment those in training; by default one per core.

    Raises:
        DataError: When the data are missing or damaged, with the file and what to do.
    """
    from robustnorm.data.listing import ReadOptions

    check_data(data)
    how = ReadOptions(root, resize, stream, _usable_cores() if workers is None else workers)
    named = data if data in DATASETS else _NAMED.get(Path(data).name)
    if named is not None:
        parent = root if data in DATASETS else Path(data).resolve().parent
        load, offered = DATASETS[named], {"root": parent, "download": download, "how": how}
    else:
        load, offered = FORMATS[format_of(Path(data))], {"path": Path(data), "how": how}
    wanted = signature(load).parameters
    if resize is not None and "how" not in wanted:
        raise DataError(f"--resize is for encoded images; those of {data} have a fixed size")
    dataset: Dataset = load(**{name: offered[name] for name in offered if name in wanted})
    return dataset


def _usable_cores() -> int:
    """Returns the number of cores available to this process, if the system reports it."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
