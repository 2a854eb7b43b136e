"""Data sets by name or path. Nothing here loads torch before a data set is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustnorm.data.errors import DataError
from robustnorm.system.registry import Registry

if TYPE_CHECKING:
    from robustnorm.data.dataset import Dataset

# An entry takes (path, root, download); "image_folder" is chosen by giving a path.
DATASETS = Registry(
    "dataset",
    {
        "digits": "robustnorm.data.digits:load_digits",
        "cifar10": "robustnorm.data.cifar10:load_cifar10",
        "cifar100": "robustnorm.data.cifar100:load_cifar100",
        "imagenet16-120": "robustnorm.data.imagenet16:load_imagenet16_120",
        "image_folder": "robustnorm.data.image_folder:load_image_folder",
    },
)


def check_data(data: str) -> None:
    """Raises a DataError unless ``data`` names a data set or an existing path.

    Args:
        data: "digits", "cifar10", "cifar100", "imagenet16-120", or the path of an image folder or
            its archive.
    """
    if (data in DATASETS and data != "image_folder") or Path(data).exists():
        return
    try:
        DATASETS.check(data)
        problem = "image_folder is chosen by the path of its folder"
    except ValueError as error:
        problem = str(error)
    raise DataError(
        f"{problem} A path must exist, of a folder with train/<class>/ and test/<class>/ or of an "
        f"archive of one; '{data}' does not."
    )


def load_dataset(data: str, *, root: Path = Path("data"), download: bool = False) -> Dataset:
    """Returns a data set as uint8 tensors.

    Args:
        data: "digits", "cifar10", "cifar100", "imagenet16-120", or the path of an image folder or
            its archive.
        root: Folder for downloads, unpacked archives and decoded images.
        download: Let torchvision download CIFAR-10.

    Raises:
        DataError: With the file and the repair, when the data are missing or damaged.
    """
    check_data(data)
    dataset: Dataset
    if data == "digits":
        dataset = DATASETS["digits"]()
    elif data == "cifar10":
        dataset = DATASETS["cifar10"](root, download=download)
    elif data in ("cifar100", "imagenet16-120"):
        dataset = DATASETS[data](root)
    else:
        dataset = DATASETS["image_folder"](Path(data), cache=root)
    return dataset
