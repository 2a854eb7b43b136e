"""Data sets by name: digits and CIFAR-10."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from robustnorm.data import DATASETS, check_data, load_dataset
from robustnorm.data.errors import DataError


def test_digits_are_scikit_learn_s():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits")
    assert dataset.train.images.shape == (1297, 1, 8, 8)
    assert dataset.test.images.shape == (500, 1, 8, 8)
    images = torch.cat([dataset.train.images, dataset.test.images])
    sixteenths = (images.double() / 255 * 16).round().sum((0, 1, 2, 3))
    assert sixteenths == load_digits().data.sum()
    assert images.unique().numel() == 17


def test_digits_hold_every_class_in_both_parts():
    dataset = load_dataset("digits")
    for split in (dataset.train, dataset.test):
        assert set(split.labels.tolist()) == set(range(10))


def test_digits_are_never_flipped_or_shifted():
    augmentation = load_dataset("digits").augmentation
    assert (augmentation.padding, augmentation.flip) == (0, False)


def test_digits_name_the_extra_when_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r'pip install "robustnorm\[demo\]"'):
        load_dataset("digits")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digit", "unknown dataset 'digit'; did you mean 'digits'"),
        ("cifar", "unknown dataset 'cifar'; did you mean 'cifar10'"),
        ("image_folder", "is chosen by the path of its folder"),
    ],
)
def test_unknown_data_is_refused_with_the_nearest_name(data, message):
    with pytest.raises(DataError, match=message):
        check_data(data)


@pytest.mark.parametrize("data", ["digits", "cifar10", "."])
def test_known_data_pass_the_check(data):
    check_data(data)


def test_data_sets_are_listed():
    assert list(DATASETS) == ["digits", "cifar10", "cifar100", "imagenet16-120", "image_folder"]


@pytest.fixture
def cifar10(tmp_path, torchvision_library, monkeypatch):
    """A small CIFAR-10 in the format and under the checks of the real one."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import calculate_md5

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = [f"class{i}" for i in range(10)]

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, calculate_md5(folder / name)]

    def batch(n):
        pixels = generator.integers(0, 256, (n, 3072), np.uint8)
        return {"data": pixels, "labels": generator.integers(0, 10, n).tolist()}

    monkeypatch.setattr(
        CIFAR10, "train_list", [write(f"data_batch_{i}", batch(4)) for i in range(1, 6)]
    )
    test = batch(6)
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", test)])
    name, md5 = write("batches.meta", {"label_names": names})
    meta = {"filename": name, "key": "label_names", "md5": md5}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return tmp_path, test


def test_cifar10_is_read_from_torchvision_s_files(cifar10):
    root, test = cifar10
    dataset = load_dataset("cifar10", root=root)
    assert dataset.name == "CIFAR-10"
    assert dataset.train.images.shape == (20, 3, 32, 32)
    assert np.array_equal(dataset.test.images.flatten(1).numpy(), test["data"])
    assert dataset.test.labels.tolist() == test["labels"]
    assert (dataset.augmentation.padding, dataset.augmentation.flip) == (4, True)


def test_missing_cifar10_says_how_to_fetch_it(tmp_path, torchvision_library):
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*--download true.*--data PATH"):
        load_dataset("cifar10", root=tmp_path)


def test_damaged_cifar10_is_refused(cifar10):
    root, _ = cifar10
    (root / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*, or damaged"):
        load_dataset("cifar10", root=root)


def test_failed_download_is_one_message(tmp_path, torchvision_library, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "no-such-archive").as_uri())
    with pytest.raises(DataError, match="CIFAR-10 could not be fetched"):
        load_dataset("cifar10", root=tmp_path, download=True)


def test_torchvision_that_does_not_fit_torch_is_one_message(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    done = subprocess.run(
        [sys.executable, "-m", "robustnorm", "train", "--data", "cifar10", "--norm", "bn"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert (
        "torchvision cannot be imported (operator torchvision::nms does not exist)" in done.stderr
    )
    assert "--data PATH" in done.stderr
    assert "Traceback" not in done.stderr
