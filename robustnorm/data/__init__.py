"""Data sets by name or path. Nothing here loads torch before a data set is loaded."""

from __future__ import annotations

import os
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from robustnorm.data.errors import DataError
from robustnorm.system.registry import Registry, unknown

if TYPE_CHECKING:
    from robustnorm.data.dataset import Dataset

# An entry takes what it needs of root and download. To add a data set: one file, one line here, one
# test. An image folder needs no line: it is chosen by its path.
DATASETS = Registry(
    "dataset",
    {
        "digits": "robustnorm.data.digits:load_digits",
        "cifar10": "robustnorm.data.cifar10:load_cifar10",
        "cifar100": "robustnorm.data.cifar100:load_cifar100",
        "imagenet16-120": "robustnorm.data.imagenet16:load_imagenet16_120",
    },
)


def check_data(data: str) -> None:
    """Raises a DataError unless ``data`` names a data set or an existing path.

    Args:
        data: A name in ``DATASETS``, or the path of an image folder or its archive.
    """
    if data in DATASETS or Path(data).exists():
        return
    raise DataError(
        f"{unknown('dataset', data, list(DATASETS))} A path must exist, of a folder with "
        f"train/<class>/ and test/<class>/ or of an archive of one; '{data}' does not."
    )


def load_dataset(
    data: str,
    *,
    root: Path = Path("data"),
    download: bool = False,
    resize: int | None = None,
    stream: bool | None = None,
    workers: int | None = None,
) -> Dataset:
    """Returns a data set as uint8 images.

    Args:
        data: A name in ``DATASETS``, or the path of an image folder or its archive.
        root: Folder for downloads and what is computed once.
        download: Fetch a data set of a name that is not in ``root``.
        resize: Scale the shorter side of encoded images to this and keep the middle.
        stream: Leave encoded images on disk; by default where they would take more than 2 GiB.
        workers: Processes that decode and augment those in training; one a core by default.

    Raises:
        DataError: With the file and the repair, when the data are missing or damaged.
    """
    check_data(data)
    if data not in DATASETS:
        from robustnorm.data.image_folder import load_image_folder
        from robustnorm.data.listing import How

        workers = _usable_cores() if workers is None else workers
        return load_image_folder(Path(data), How(root, resize, stream, workers))
    load, offered = DATASETS[data], {"root": root, "download": download}
    wanted = signature(load).parameters
    dataset: Dataset = load(**{name: offered[name] for name in offered if name in wanted})
    return dataset


def _usable_cores() -> int:
    """Returns the number of cores that this process may use, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
