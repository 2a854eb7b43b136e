from __future__ import annotations

from pathlib import Path

from robustnorm.data.dataset import Dataset
from robustnorm.data.errors import DataError
from robustnorm.data.idx import has_idx, load_idx
from robustnorm.data.unpacking import download as fetch
from robustnorm.data.unpacking import is_published

_CLOTHES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_URLS = {
    "MNIST": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "FashionMNIST": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
}
# The published files, by md5, in the order above.
_MD5 = {
    "MNIST": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "FashionMNIST": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
}


def load_mnist(root: Path, *, download: bool = False) -> Dataset:
    """Returns MNIST: 28 x 28 grey digits, 60,000 for training, 10,000 for testing, never mirrored.

    Args:
        root: Folder whose ``MNIST`` or ``MNIST/raw`` holds the four idx files, compressed or not.
        download: Download them if they do not exist.

    Raises:
        DataError: When files are missing or the download fails; a RefusedDataError when one is
            damaged.

    References:
        LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """
    return _load("MNIST", "MNIST", tuple("0123456789"), root, download)


def load_fashion_mnist(root: Path, *, download: bool = False) -> Dataset:
    """Returns Fashion-MNIST, clothes in the format of MNIST; raises errors like ``load_mnist``.

    Args:
        root: Folder whose ``FashionMNIST`` or ``FashionMNIST/raw`` holds the files.
        download: Download them if they do not exist.

    References:
        Xiao et al., Fashion-MNIST, arXiv:1708.07747.
    """
    return _load("FashionMNIST", "Fashion-MNIST", _CLOTHES, root, download)


def _load(folder: str, name: str, classes: tuple[str, ...], root: Path, download: bool) -> Dataset:
    folders = [each for each in (root / folder, root / folder / "raw") if has_idx(each)]
    if not folders and not download:
        raise DataError(
            f"{name} is not in {root / folder}. Download it with --download true, or put its "
            f"four files there, {_FILES[0]}-ubyte.gz and so on"
        )
    if not folders:
        folders = [root / folder]
        for file, md5 in zip(_FILES, _MD5[folder], strict=True):
            compressed = f"{file}-ubyte.gz"
            fetch(f"{_URLS[folder]}/{compressed}", folders[0] / compressed, md5)
    return load_idx(folders[0], name + _note(folders[0], _MD5[folder]), classes)


def _note(folder: Path, hashes: tuple[str, ...]) -> str:
    """Returns a note for reports on files that are not known to be the published ones."""
    compressed = [folder / f"{file}-ubyte.gz" for file in _FILES]
    if not all(file.is_file() for file in compressed):
        return " (unpacked files, unverified)"
    published = all(map(is_published, compressed, hashes))
    return "" if published else " (not the published files)"
