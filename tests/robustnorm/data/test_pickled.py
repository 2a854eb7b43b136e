"""CIFAR-100's archive and ImageNet16-120's pickles, on made-up files."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from robustnorm.data import load_dataset
from robustnorm.data.errors import DataError, RefusedDataError
from robustnorm.data.pickles import read_pickle


class Owned:
    """A pickle of it runs a command when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def images_of(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3 * size * size), dtype=np.uint8)


def of_python_2(data, labels, name):
    """A pickle as Python 2 wrote CIFAR-100's: protocol 2, with bytes as its own text."""
    count, size = data.shape

    def text(words):
        return b"U" + bytes([len(words)]) + words

    def number(value):
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R("
        b"K\x03" + text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R("
        b"K\x01" + number(count) + number(size) + b"\x86" + dtype + b"\x89"
        b"T" + data.nbytes.to_bytes(4, "little") + data.tobytes() + b"tb"
    )
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(name.encode()) + listed + b"u."


@pytest.fixture
def cifar100(tmp_path):
    """A made archive: 12 images to train, 6 to test."""
    parts = {"train": (images_of(12, 32), 0), "test": (images_of(6, 32, 1), 90)}
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name, (data, first) in parts.items():
            labels = list(range(first, first + len(data)))
            content = of_python_2(data, labels, "fine_labels")
            assert np.array_equal(pickle.loads(content, encoding="latin1")["data"], data)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tmp_path, parts


def test_cifar100_is_read_from_its_archive_and_then_from_its_folder(cifar100):
    root, parts = cifar100
    dataset = load_dataset("cifar100", root=root)
    (root / "cifar-100-python.tar.gz").unlink()
    again = load_dataset("cifar100", root=root)
    for name, (data, first) in parts.items():
        for found in (dataset, again):
            split = getattr(found, name)
            assert np.array_equal(split.images.flatten(1).numpy(), data)
            assert split.labels.tolist() == list(range(first, first + len(data)))
    assert dataset.train.images.shape == (12, 3, 32, 32)
    assert len(dataset.classes) == 100
    assert (dataset.augmentation.padding, dataset.augmentation.flip) == (4, True)
    assert dataset.sha256 == again.sha256
    assert dataset.name == "CIFAR-100 (not the published files)"


def test_missing_cifar100_says_where_it_should_be(tmp_path):
    with pytest.raises(DataError, match=r"neither cifar-100-python.tar.gz nor the folder"):
        load_dataset("cifar100", root=tmp_path)


def test_archive_of_something_else_is_refused(tmp_path):
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with pytest.raises(RefusedDataError, match="holds no folder cifar-100-python"):
        load_dataset("cifar100", root=tmp_path)


def batches():
    return [*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"]


@pytest.fixture(params=[2, 4, 5])
def imagenet16(tmp_path, request):
    """Made pickles, of each protocol, with labels from 1 to 1,000 of which 120 are kept."""
    (tmp_path / "ImageNet16").mkdir()
    for number, name in enumerate(batches()):
        content = {
            "data": images_of(4, 16, number),
            "labels": [number + 1, 120, 121, 1000],
            "mean": np.zeros(3, dtype=np.uint8),
        }
        data = pickle.dumps(content, protocol=request.param)
        (tmp_path / "ImageNet16" / name).write_bytes(data)
    return tmp_path


def test_imagenet16_120_has_the_first_120_classes(imagenet16):
    dataset = load_dataset("imagenet16-120", root=imagenet16)
    assert dataset.train.images.shape == (20, 3, 16, 16)
    assert dataset.test.images.shape == (2, 3, 16, 16)
    expected = [label for number in range(10) for label in (number, 119)]
    assert dataset.train.labels.tolist() == expected
    first = torch.from_numpy(images_of(4, 16, 0)).view(4, 3, 16, 16)
    assert torch.equal(dataset.train.images[:2], first[:2])
    assert len(dataset.classes) == 120
    assert dataset.augmentation.padding == 2
    assert dataset.name == "ImageNet16-120 (not the published files)"


def test_missing_imagenet16_names_the_files(imagenet16):
    (imagenet16 / "ImageNet16" / "train_data_batch_3").unlink()
    with pytest.raises(DataError, match="needs train_data_batch_3 in"):
        load_dataset("imagenet16-120", root=imagenet16)


def test_pickle_that_runs_a_command_does_not(imagenet16, monkeypatch):
    monkeypatch.chdir(imagenet16)
    path = imagenet16 / "ImageNet16" / "val_data"
    path.write_bytes(pickle.dumps({"data": images_of(1, 16), "labels": [Owned()]}))
    with pytest.raises(RefusedDataError, match=r"not a pickle of plain arrays \(it names"):
        load_dataset("imagenet16-120", root=imagenet16)
    assert not (imagenet16 / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": images_of(2, 16), "labels": [1]}, "a whole number for each of its 2 images"),
        ({"data": images_of(2, 16), "labels": [1, "2"]}, "a whole number for each"),
        ({"data": images_of(2, 16)}, "a whole number for each"),
        ({"data": images_of(2, 8), "labels": [1, 2]}, r"bytes of \(N, 768\)"),
        ({"data": [1, 2], "labels": [1, 2]}, r"bytes of \(N, 768\)"),
        ({"data": np.zeros((2, 768)), "labels": [1, 2]}, "values of type f8"),
        ([1, 2], "no dictionary"),
    ],
)
def test_other_content_is_refused(imagenet16, content, message):
    (imagenet16 / "ImageNet16" / "train_data_batch_1").write_bytes(pickle.dumps(content))
    with pytest.raises(RefusedDataError, match=message):
        load_dataset("imagenet16-120", root=imagenet16)


def edited(change):
    data = pickle.dumps({"data": images_of(2, 16)}, protocol=2)
    return change(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}.extra"[:3],
        edited(lambda data: data[: len(data) // 2]),
        edited(lambda data: data.replace(b"M\x00\x03", b"M\x00\x04", 1)),
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
        b"(S'ls'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    ],
    ids=["empty", "cut", "half", "shape", "memo", "global", "inst", "extension", "stack global"],
)
def test_damaged_and_malicious_pickles_are_refused(tmp_path, data):
    path = tmp_path / "batch"
    path.write_bytes(data)
    with pytest.raises(RefusedDataError, match="is not a pickle of plain arrays"):
        read_pickle(path)


def test_pickle_of_an_array_is_numpy_s(tmp_path):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for array in (images_of(3, 4), np.arange(6).reshape(2, 3), np.arange(4, dtype=np.int32)):
            path = tmp_path / "array"
            path.write_bytes(pickle.dumps({"data": array}, protocol=protocol))
            found = read_pickle(path)["data"]
            assert found.dtype == array.dtype
            assert np.array_equal(found, array)
