"""Data sets by name: digits and CIFAR-10."""

import hashlib
import shutil
import sys
import tarfile

import numpy as np
import pytest
import torch
from data_files import CIFAR10, cifar10_binary, cifar10_python

from robustnorm.data import check_data, cifar10, load_dataset
from robustnorm.data.errors import DataError, RefusedDataError


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
        ("image_folder", "A path must lead to a folder with train/"),
    ],
)
def test_unknown_data_is_refused_with_the_nearest_name(data, message):
    with pytest.raises(DataError, match=message):
        check_data(data)


@pytest.mark.parametrize("data", ["digits", "cifar10", "."])
def test_known_data_pass_the_check(data):
    check_data(data)


@pytest.fixture
def batches():
    """Name of each file to pixels (4, 3072) and labels, as CIFAR-10 has them."""
    generator = np.random.default_rng(0)
    return {
        name: (generator.integers(0, 256, (4, 3072), np.uint8), generator.integers(0, 10, 4))
        for name in CIFAR10
    }


VERSIONS = [
    (cifar10_python, "cifar-10-python.tar.gz", "CIFAR-10 (not the published files)"),
    (cifar10_binary, "cifar-10-binary.tar.gz", "CIFAR-10 (binary files, unverified)"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("write", "archive", "name"), VERSIONS)
def test_cifar10_is_read_from_either_version(tmp_path, batches, write, archive, name, packed):
    write(tmp_path, batches)
    if packed:
        [folder] = tmp_path.iterdir()
        with tarfile.open(tmp_path / archive, "w:gz") as tar:
            tar.add(folder, folder.name)
        shutil.rmtree(folder)
    dataset = load_dataset("cifar10", root=tmp_path)
    assert dataset.name == name
    assert dataset.classes[3] == "cat"
    assert len(dataset.train) == 20
    for split, names in ((dataset.train, CIFAR10[:5]), (dataset.test, CIFAR10[5:])):
        pixels = np.concatenate([batches[each][0] for each in names])
        assert np.array_equal(split.images.flatten(1).numpy(), pixels)
        assert np.array_equal(split.labels.numpy(), np.concatenate([batches[n][1] for n in names]))
    assert (dataset.augmentation.padding, dataset.augmentation.flip) == (4, True)


@pytest.mark.parametrize(("write", "archive", "name"), VERSIONS)
@pytest.mark.parametrize("form", ["folder", "renamed folder", "archive"])
def test_cifar10_is_read_by_its_path(tmp_path, batches, write, archive, name, form):
    write(tmp_path, batches)
    [path] = tmp_path.iterdir()
    if form == "renamed folder":
        path = path.rename(tmp_path / "mine")
    if form == "archive":
        with tarfile.open(tmp_path / archive, "w:gz") as tar:
            tar.add(path, path.name)
        shutil.rmtree(path)
        path = tmp_path / archive
    dataset = load_dataset(str(path), root=tmp_path / "cache")
    assert dataset.name == name
    assert len(dataset.train) == 20


def test_both_versions_of_cifar10_have_one_content(tmp_path, batches):
    hashes = []
    for write, *_ in VERSIONS:
        root = tmp_path / write.__name__
        root.mkdir()
        write(root, batches)
        hashes.append(load_dataset("cifar10", root=root).sha256)
    assert hashes[0] == hashes[1]


def test_published_files_of_cifar10_are_named_as_such(tmp_path, batches, monkeypatch):
    cifar10_python(tmp_path, batches)
    md5 = {
        name: hashlib.md5((tmp_path / "cifar-10-batches-py" / name).read_bytes()).hexdigest()
        for name in CIFAR10
    }
    monkeypatch.setattr(cifar10, "_PYTHON", md5)
    assert load_dataset("cifar10", root=tmp_path).name == "CIFAR-10"


def test_hashes_of_cifar10_are_torchvision_s(torchvision_library):
    from torchvision.datasets import CIFAR10

    assert list(cifar10._PYTHON.items()) == [
        tuple(entry) for entry in (*CIFAR10.train_list, *CIFAR10.test_list)
    ]


def test_missing_cifar10_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*--download true.*--data PATH"):
        load_dataset("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("write", "file", "message"),
    [
        (
            cifar10_python,
            "cifar-10-batches-py/data_batch_2",
            "is not a pickle of plain arrays",
        ),
        (
            cifar10_binary,
            "cifar-10-batches-bin/test_batch.bin",
            "must hold 3073 bytes per image",
        ),
    ],
)
def test_damaged_cifar10_is_refused(tmp_path, batches, write, file, message):
    write(tmp_path, batches)
    (tmp_path / file).write_bytes(b"damaged")
    with pytest.raises(RefusedDataError, match=message):
        load_dataset("cifar10", root=tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match="is missing"):
        load_dataset("cifar10", root=tmp_path)
